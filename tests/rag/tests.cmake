include(${CMAKE_CURRENT_SOURCE_DIR}/rag/loaders.cmake)
apud_test(NAME rag_ingest_test SOURCES rag/ingest_test.cpp LIBS apud_rag)
apud_test(NAME rag_citations_test SOURCES rag/citations_test.cpp LIBS apud_rag)
apud_test(NAME rag_packer_test SOURCES rag/packer_test.cpp LIBS apud_rag)
