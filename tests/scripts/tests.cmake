# The scripts are Python; their tests too (standard library only).
foreach(name fetch_models random_model quickstart gpu_sanitize)
  add_test(NAME scripts.${name} COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/${name}_test.py)
  set_tests_properties(scripts.${name} PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
