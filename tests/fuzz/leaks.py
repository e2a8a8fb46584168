"""Random programs under LeakSanitizer, without a build for it: python tests/fuzz/leaks.py LIBRARY SECONDS

A leak is ours where one of the innermost frames is in our modules. A build with CGRU_DEBUG=1 has the tables that stacks
are walked by.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

INNER = 8  # frames: of the allocator, of Python's objects, and who asked for one


def ours(report):
    """The leaks of a report that our modules made."""
    leaks = re.findall(r"(?:Direct|Indirect) leak of .*?(?=\n\n|\Z)", report, re.DOTALL)
    return [leak for leak in leaks if any("cgru/kernels/" in line for line in leak.split("\n")[1 : INNER + 1])]


def main():
    library, seconds = sys.argv[1:3]
    options = "fast_unwind_on_malloc=0:malloc_context_size=16:exitcode=0"
    environment = os.environ | {"LD_PRELOAD": library, "PYTHONMALLOC": "malloc", "LSAN_OPTIONS": options}
    command = [sys.executable, str(Path(__file__).with_name("api.py")), seconds]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(done.stdout, end="")
    if "LeakSanitizer has encountered a fatal error" in done.stderr:
        print("skipped: LeakSanitizer cannot look into processes here")
        return
    found = ours(done.stderr)
    count = len(re.findall(r"(?:Direct|Indirect) leak", done.stderr))
    print(*found, f"{count} leaks of others, {len(found)} of ours", sep="\n\n")
    sys.exit(bool(found) or done.returncode)


if __name__ == "__main__":
    main()
