apud_test(NAME app_test SOURCES app/settings_test.cpp app/cli_test.cpp app/prompts_test.cpp app/turn_test.cpp app/terminal_test.cpp
          app/machine_test.cpp app/evidence_budget_test.cpp app/citation_mask_test.cpp
          app/answer_test.cpp app/rewording_test.cpp app/rerank_test.cpp app/load_report_test.cpp LIBS apud_app
          LABELS unit)
# Apart: app_test's tests change the data home that models are found by.
apud_test(NAME engine_embedder_test SOURCES app/engine_embedder_test.cpp LIBS apud_app LABELS unit)
# Driven by scripts/eval-conversations.
find_package(nlohmann_json REQUIRED)
add_executable(conversation_eval EXCLUDE_FROM_ALL bench/conversation_eval.cpp)
target_include_directories(conversation_eval PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(conversation_eval PRIVATE apud_app fmt::fmt nlohmann_json::nlohmann_json)
# Which blend: docs/performance.md, Retrieval.
add_executable(rerank_dump EXCLUDE_FROM_ALL bench/rerank_dump.cpp)
target_include_directories(rerank_dump PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(rerank_dump PRIVATE apud_app nlohmann_json::nlohmann_json)
