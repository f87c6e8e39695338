apud_test(NAME golden_test SOURCES models/golden_test.cpp LIBS apud_models LABELS unit TIMEOUT 900)
apud_test(NAME catalogue_test SOURCES models/catalogue_test.cpp LIBS apud_models LABELS unit sanitize)
