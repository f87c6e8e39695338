apud_test(NAME thread_pool_test TIMED SOURCES base/thread_pool_test.cpp LIBS apud_base LABELS unit sanitize)
apud_test(NAME base_test SOURCES base/utf8_test.cpp base/file_test.cpp base/hash_test.cpp LIBS apud_base LABELS unit sanitize)
apud_test(NAME child_test SOURCES base/child_test.cpp support/child_test_main.cpp LIBS apud_base LABELS unit sanitize)
