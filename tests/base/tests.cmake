apud_test(NAME thread_pool_test SOURCES base/thread_pool_test.cpp LIBS apud_base LABELS unit sanitize)
