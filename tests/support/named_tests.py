"""Runs a script's test_… functions, all or those named, in the order in which they stand."""
import time


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def run_tests(functions, wanted):
    """functions: the script's globals(). Returns the exit status."""
    failed = 0
    for name, function in list(functions.items()):
        if not name.startswith("test_") or (wanted and name not in wanted):
            continue
        start = time.monotonic()
        try:
            function()
            print(f"ok      {name} ({time.monotonic() - start:.1f} s)", flush=True)
        except AssertionError as problem:
            failed += 1
            print(f"FAILED  {name}: {problem}", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0
