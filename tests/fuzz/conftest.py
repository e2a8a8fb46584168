"""Lets the tests of this room import the modules beside this one."""

import importlib.util
import sys
from pathlib import Path

for name in ("draw", "calling", "layer_programs", "model_programs", "programs", "api", "leaks"):
    specification = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
