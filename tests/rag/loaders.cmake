# Walker, loaders, chunker.
find_package(LibArchive REQUIRED)
# Tools that the evaluation scripts run.
add_executable(load_dump rag/load_dump.cpp)
target_link_libraries(load_dump PRIVATE apud_rag)
apud_test(NAME walk_test SOURCES rag/walk_test.cpp support/child_test_main.cpp LIBS apud_rag LABELS unit corpus sanitize)
apud_test(NAME chunker_test SOURCES rag/chunker_test.cpp support/child_test_main.cpp LIBS apud_rag LABELS unit sanitize)
apud_test(NAME loader_test SOURCES rag/loader_test.cpp support/child_test_main.cpp LIBS apud_rag LABELS unit corpus sanitize)
apud_test(NAME loader_html_test TIMED SOURCES rag/loader_html_test.cpp support/child_test_main.cpp LIBS apud_rag LABELS unit corpus sanitize)
apud_test(NAME loader_zip_test SOURCES rag/loader_zip_test.cpp support/child_test_main.cpp LIBS apud_rag LibArchive::LibArchive LABELS unit corpus sanitize)
apud_test(NAME loader_data_test SOURCES rag/loader_data_test.cpp support/child_test_main.cpp LIBS apud_rag LABELS unit corpus sanitize)
apud_test(NAME loader_pdf_test SOURCES rag/loader_pdf_test.cpp support/child_test_main.cpp LIBS apud_rag LibArchive::LibArchive LABELS unit corpus sanitize)
