apud_test(NAME app_test SOURCES app/settings_test.cpp app/cli_test.cpp app/prompts_test.cpp app/terminal_test.cpp
          app/machine_test.cpp app/evidence_budget_test.cpp LIBS apud_app
          LABELS unit)
