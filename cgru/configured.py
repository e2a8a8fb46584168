"""What is made from a handful of settings, and shows them."""

import inspect


class Configured:
    """Base class of whatever has settings: `get_config` gives them back, and the repr is the call that sets them."""

    def get_config(self):
        """Return the arguments of the constructor as a dict that JSON can hold."""
        return {}

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(self._shown())})"

    def _shown(self):
        """Yield the arguments worth showing: those without a default, and those that differ from it."""
        defaults = inspect.signature(type(self)).parameters
        for name, value in self.get_config().items():
            default = defaults[name].default if name in defaults else inspect.Parameter.empty
            if name in defaults and default is inspect.Parameter.empty:
                yield repr(value)
            elif value != default:
                yield f"{name}={value!r}"
