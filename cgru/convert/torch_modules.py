"""GRUs within PyTorch's modules and programs: where they are, the arrays that they compute with, and the order of their
axes.

A module need not hold the arrays it computes with: norms and pruning keep others, of which the arrays follow. Those
are read; nothing of a module is changed.
"""

import copy
import re
import sys
from typing import NamedTuple

from cgru.checks import shape_of

ARRAY = re.compile(r"(?:weight|bias)_[a-z]+(?:_l(\d{1,999})(_reverse)?)?")
# What norms and pruning keep instead of an array: "weight_hh_l0_g", "parametrizations.weight_hh_l0.original0".
_DISGUISED = re.compile(r"(|.*\.)(?:parametrizations\.)?((?:weight|bias)_[ih]h(?:_l\d{1,999})?(?:_reverse)?)"
                        r"(?:_(?:orig|mask|g|v|u|raw)|\.original\d*|\.\d+\.\w+)")  # fmt: skip
_RECURRENT = re.compile(r"(|.*\.)weight_hh(?:_l0)?")
# What stands around the modules of a model that is compiled, distributed or checkpointed.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_WITHOUT_ARRAYS = [
    f"torch.nn.modules.{name}" for name in ("activation", "flatten", "padding", "pooling", "upsampling", "fold")
]


class Found(NamedTuple):
    """The arrays of a module, program or state_dict, and the GRUs among them."""

    arrays: dict  # names as in the state_dict, but of GRUs the arrays that they compute with
    grus: dict  # what the names of a GRU's arrays begin with -> its module, or None where there is none
    batch_first: dict  # the same -> True or False; None where nothing tells
    aliases: dict  # the same -> other beginnings of names of the same module
    names: list  # of the state_dict
    without_arrays: tuple = ()  # paths and classes of modules that compute without parameters


def find(source):
    """The `Found` of a module, of an ExportedProgram or of a mapping of names to arrays."""
    if hasattr(source, "named_modules"):
        return _of_module(source)
    arrays, orders, default = source, {}, True  # a state_dict does not know the order of axes
    if hasattr(source, "graph_signature"):
        arrays, default = source.state_dict, None
        orders = _orders_of_fx(source.graph, source.graph_signature.inputs_to_parameters)
    starts = by_shape(arrays) or by_shape(arrays, any_rows=True)
    batch_first = {start: orders.get(start, default) for start in starts}
    return Found(arrays, dict.fromkeys(starts), batch_first, {}, list(arrays))


def plain(start):
    """What names begin with, without the wrappers."""
    parts = [part for part in start.split(".") if part not in _WRAPPERS]
    return ".".join(parts[1:] if parts[0] == "module" else parts)  # DataParallel and its kind


def disguised(name):
    """(what names begin with, name of an array of a GRU), of the name of what a norm or pruning keeps instead of that
    array; None for other names."""
    match = _DISGUISED.fullmatch(name) if isinstance(name, str) else None
    return None if match is None else (match[1].removesuffix("parametrizations."), match[2])


def by_shape(arrays, any_rows=False):
    """What the names of each GRU's arrays begin with. They have 3H rows; an LSTM's have 4H, an RNN's H."""
    shapes = {}
    for name in arrays:
        match = _RECURRENT.fullmatch("".join(disguised(name) or [str(name)]))
        if match:
            shapes.setdefault(match[1], []).append(tuple(shape_of(arrays[name])))
    # Of the arrays of a norm, one has the shape of the weight.
    return [s for s, known in shapes.items() if any_rows or any(len(k) == 2 and k[0] == 3 * k[1] for k in known)]


# -- modules


def submodule(top, prefix):
    """The module whose arrays have names that begin so, with or without the names of wrappers; None if there is none.
    Without a prefix, what is within the wrappers."""
    parts = {path + "." if path else "": module for path, module in top.named_modules(remove_duplicate=False)}
    start = prefix if prefix.endswith(".") or not prefix else prefix + "."
    if start in parts and start:
        return parts[start]
    return {plain(name): module for name, module in parts.items()}.get(start)


def kind_of(module):
    """The name of PyTorch's class, also of a scripted, traced or parametrized module or of a class that somebody
    derived; None for other modules."""
    if hasattr(module, "original_name"):  # torch.jit's
        return module.original_name.removeprefix("Parametrized")
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torch.nn.modules.") and not re.match("Module$|Lazy", kind.__name__):
            return kind.__name__
        if ".quantized" in kind.__module__ and kind.__module__.startswith("torch."):
            return kind.__name__
    return None


def _computes(module):
    """Whether this is a module of PyTorch that changes numbers in evaluation mode without arrays of its own."""
    return type(module).__module__ in _WITHOUT_ARRAYS and not module.state_dict()


def is_quantized(module):
    return any(k.__module__.startswith("torch.") and ".quantized" in k.__module__ for k in type(module).__mro__)


def _of_module(top):
    state_dict = top.state_dict()
    modules = {path + "." if path else "": module for path, module in top.named_modules(remove_duplicate=False)}
    known = {}
    for start, module in modules.items():
        if kind_of(module) in ("GRU", "GRUCell"):
            # Some wrappers leave their own names out of the state_dict.
            has_names = any(name.startswith(start) for name in state_dict)
            known[start if has_names else plain(start)] = module
    # Modules of other classes may hold a GRU's arrays, too.
    others = [start for start in by_shape(state_dict) if start not in known]
    computing = [f"{start.rstrip('.')} ({kind_of(module)})" for start, module in modules.items() if _computes(module)]
    found = Found(dict(state_dict), {}, {}, {}, list(state_dict), tuple(computing))
    seen, orders = {}, None
    for start in (*known, *others):
        module = known.get(start, modules.get(start))
        names = _array_names(module, start, state_dict)
        if start not in known and not any(name.startswith("weight_ih") for name in names):
            continue  # the raw array of something around a GRU
        if module is not None and not is_quantized(module):
            _replace(found.arrays, module, start, names)
        if module is not None and id(module) in seen:
            found.aliases[seen[id(module)]].append(start)
            continue
        seen[id(module)] = start
        found.grus[start], found.aliases[start] = module, []
        batch_first = True if "weight_hh" in names else getattr(module, "batch_first", None)
        if batch_first is None and not is_quantized(module):
            orders = _orders(top) if orders is None else orders
            batch_first = orders.get(start)
        found.batch_first[start] = batch_first
    return found


def _replace(arrays, module, start, names):
    """Put the arrays that a GRU computes with in the place of what is kept instead of them."""
    computed = {name: effective(module, name) for name in names if start + name not in arrays}
    for key in list(arrays):
        hidden = disguised(key)
        if hidden and hidden[0] == start and computed.get(hidden[1]) is not None:
            del arrays[key]
    arrays |= {start + name: array for name, array in computed.items() if array is not None}


def _array_names(module, start, state_dict):
    """The names of a GRU's arrays."""
    names = dict.fromkeys(getattr(module, "_flat_weights_names", ()))
    for key in state_dict:
        hidden = disguised(key)
        name = hidden[1] if hidden and hidden[0] == start else key.removeprefix(start)
        if key.startswith(start) and ARRAY.fullmatch(name):
            names[name] = None
    return list(names)


def effective(module, name):
    """The array of this name that the module computes with in evaluation mode; None where there is none."""
    torch = sys.modules["torch"]
    with torch.no_grad():
        for hook in getattr(module, "_forward_pre_hooks", {}).values():
            if name not in (getattr(hook, "name", None), getattr(hook, "_tensor_name", None)):
                continue
            if hasattr(hook, "apply_mask"):  # torch.nn.utils.prune
                return hook.apply_mask(module)
            if hasattr(hook, "do_power_iteration") or hasattr(hook, "n_power_iterations"):
                return hook.compute_weight(module, do_power_iteration=False)
            if hasattr(hook, "compute_weight"):
                return hook.compute_weight(module)
        if torch.nn.utils.parametrize.is_parametrized(module, name):
            # A norm in training mode changes with each call.
            return copy.deepcopy(module.parametrizations[name]).eval()()
        return getattr(module, name, None)


def own_ways(module):
    """Names of what may change the numbers of a module of PyTorch: hooks, and a forward that somebody else wrote."""
    found = []
    for kind in ("_forward_pre_hooks", "_forward_hooks"):
        for hook in getattr(module, kind, {}).values():
            if not getattr(hook, "__module__", type(hook).__module__).startswith("torch."):
                found.append(getattr(hook, "__qualname__", type(hook).__name__))
    kind = getattr(sys.modules["torch"].nn, kind_of(module) or "", None)
    if kind is not None and not hasattr(module, "original_name"):
        own = type(module).forward
        ours = own.__module__.split(".")[0] == "cgru"  # the drop-in's, which gives the same numbers
        if "forward" in vars(module) or (own is not kind.forward and not ours):
            found.append(f"{type(module).__name__}.forward")
    return found


# -- the order of axes in a graph


def _orders(top):
    """What names begin with -> batch_first, of the GRUs that a graph computes."""
    if hasattr(top, "inlined_graph"):
        return _orders_of_trace(top.inlined_graph)
    if hasattr(getattr(top, "graph", None), "nodes"):
        return _orders_of_fx(top.graph, {})
    return {}


def _orders_of_trace(graph):
    found = {}
    for node in graph.findAllNodes("aten::gru", True):
        inputs = list(node.inputs())
        if len(inputs) != 9 or inputs[2].node().kind() != "prim::ListConstruct":
            continue  # packed sequences have no order of axes
        path, value = [], next(inputs[2].node().inputs())
        while value.node().kind() == "prim::GetAttr":
            path.append(value.node().s("name"))
            value = next(value.node().inputs())
        found.setdefault(".".join(path[::-1]), set()).add(inputs[8].toIValue())
    return _agreed(found)


def _orders_of_fx(graph, parameters):
    found = {}
    for node in graph.nodes:
        if not str(node.target).startswith("aten.gru.input"):
            continue
        first = node.args[2][0]
        name = parameters.get(first.name) or str(first.target)
        found.setdefault(name, set()).add(node.args[8] if len(node.args) > 8 else node.kwargs.get("batch_first"))
    return _agreed(found)


def _agreed(found):
    """Of the name of a first array and the orders seen with it, what names begin with and the only order."""
    return {
        name.removesuffix("weight_ih_l0"): orders.pop()
        for name, orders in found.items()
        if len(orders) == 1 and name.endswith("weight_ih_l0") and orders <= {True, False}
    }
