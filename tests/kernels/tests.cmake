apud_test(NAME quant_test SOURCES kernels/quant_test.cpp LIBS apud_kernels LABELS unit sanitize)
apud_test(NAME sampling_test SOURCES kernels/sampling_test.cpp LIBS apud_kernels LABELS unit sanitize)
apud_test(NAME reference_test SOURCES kernels/reference_test.cpp LIBS apud_kernels LABELS unit sanitize)
apud_test(NAME kernels_cpu_test SOURCES kernels/cpu_test.cpp LIBS apud_kernels LABELS unit sanitize)
