apud_test(NAME golden_test OPTIMISED SOURCES models/golden_test.cpp LIBS apud_models LABELS unit TIMEOUT 900)
apud_test(NAME catalogue_test SOURCES models/catalogue_test.cpp LIBS apud_models LABELS unit sanitize)
apud_test(NAME download_test SOURCES models/download_test.cpp LIBS apud_models LABELS unit fault sanitize)
apud_test(NAME gguf_test OPTIMISED SOURCES models/gguf_test.cpp LIBS apud_models LABELS unit corpus sanitize)
apud_test(NAME safetensors_test SOURCES models/safetensors_test.cpp LIBS apud_models LABELS unit corpus sanitize)
apud_test(NAME tokenizer_golden_test OPTIMISED SOURCES models/tokenizer_golden_test.cpp LIBS apud_models LABELS unit)
apud_test(NAME chat_template_golden_test SOURCES models/chat_template_golden_test.cpp LIBS apud_models
          LABELS unit)
apud_test(NAME arch_test SOURCES models/arch_test.cpp LIBS apud_models LABELS unit sanitize)
apud_test(NAME sentencepiece_encoders_test SOURCES models/sentencepiece_encoders_test.cpp LIBS apud_models
          LABELS unit sanitize)
apud_test(NAME tokenizer_corpus_test SOURCES models/tokenizer_corpus_test.cpp LIBS apud_models
          LABELS unit corpus sanitize)
apud_test(NAME tokenizer_property_test OPTIMISED SOURCES models/tokenizer_property_test.cpp LIBS apud_models LABELS unit)
