# Tools that the evaluation scripts run.
add_executable(load_dump rag/load_dump.cpp)
target_link_libraries(load_dump PRIVATE apud_rag)
