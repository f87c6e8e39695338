apud_test(NAME prefix_tree_test SOURCES engine/prefix_tree_test.cpp LIBS apud_engine LABELS unit sanitize)
apud_test(NAME text_stream_test SOURCES engine/text_stream_test.cpp LIBS apud_engine LABELS unit sanitize)
apud_test(NAME engine_test SOURCES engine/engine_test.cpp LIBS apud_engine LABELS unit sanitize)
