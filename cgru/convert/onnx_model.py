"""An ONNX model as it is read: tensors, also those in other files, and the graphs in it.

A graph may hold others, the bodies of If, Loop and Scan, which see the names around them; and a node may call one of
the model's own functions. A `Scope` is a graph, or one call of a function; a `Value` is a name in it, wherever in the
model it comes from. Nothing here recurses: how deep graphs are nested is for the model to say.
"""

import math
import os
from typing import NamedTuple

from cgru.reading import check_path, errors_name, open_regular, short

_GRAPH, _GRAPHS = 5, 10  # types of attributes
_DOMAINS = ("", "ai.onnx")
_MAX_PATH = 4096


def read_model(onnx, source):
    """(ModelProto, folder of its external data or None, its size in bytes) of a model, bytes or a path."""
    if isinstance(source, onnx.ModelProto):
        return source, None, source.ByteSize()
    if not isinstance(source, (bytes, str, os.PathLike)):
        raise TypeError(f"model: expected an onnx.ModelProto, a path or bytes, got {type(source).__name__}")
    folder, what, data = None, "bytes", source
    if not isinstance(source, bytes):
        what = check_path(source, "model")
        folder = os.path.dirname(os.path.abspath(what))
        with open_regular(what) as file, errors_name(what):
            data = file.read()
    try:
        return onnx.load_model_from_string(data), folder, len(data)
    except Exception:  # the parser's errors are those of protobuf, in one version another than in the next
        raise ValueError(f"model: expected an ONNX model, got {what} that cannot be parsed") from None


# -- tensors


class Tensors:
    """Arrays of tensors; how much all of them may take is bounded by the size of the model and of its data."""

    def __init__(self, onnx, folder, size):
        self._onnx, self._folder, self.left = onnx, folder, 32 * size + (16 << 20)

    def spend(self, count, what):
        if count > self.left:
            raise ValueError(f"{what}: expected constants that a model of this size can have, got one of {count} bytes")
        self.left -= count

    def array(self, tensor, name):
        """The array of a TensorProto."""
        if any(size < 0 for size in tensor.dims):
            raise ValueError(f"{name}: expected sizes of at least 0, got {short(list(tensor.dims))}")
        count = math.prod(tensor.dims)
        if self._onnx.external_data_helper.uses_external_data(tensor):
            tensor = self._with_data(tensor, name, count)
        fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
        stored = 8 * len(tensor.raw_data) + sum(8 * len(getattr(tensor, field)) for field in fields)
        if count > stored:  # an element has a bit or more
            raise ValueError(f"{name}: expected the data of {count} elements, got fewer")
        try:
            return self._onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # of types that it does not know, of data that do not fit
            raise ValueError(f"{name}: expected a tensor, got one that cannot be read: {short(error)}") from None

    def _with_data(self, tensor, name, count):
        """The tensor with its external data in it."""
        if self._folder is None:
            raise ValueError(f"{name}: expected its data in the model, got external data; give the model's path")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if len(location) > _MAX_PATH:
            raise ValueError(f"{name}: expected the name of a file, got {short(location)!r}")
        folder = os.path.realpath(self._folder)
        path = os.path.realpath(os.path.join(folder, check_path(location, f"{name}: location of its data")))
        if os.path.isabs(location) or os.path.commonpath([folder, path]) != folder:
            raise ValueError(f"{name}: expected its data in {folder}, got {short(location)!r}, which is elsewhere")
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            offset = self._number(entries, "offset", name, 0)
            length = self._number(entries, "length", name, max(0, size - offset))
            if offset > size or length > size - offset or count > 8 * length:
                got = f"{length} bytes at {offset} of {path}, which has {size}"
                raise ValueError(f"{name}: expected the data of {count} elements, got {got}")
            file.seek(offset)
            with errors_name(path):
                data = file.read(length)
        self.left += 32 * length
        filled = self._onnx.TensorProto()
        filled.dims.extend(tensor.dims)
        filled.data_type, filled.raw_data = tensor.data_type, data
        return filled

    @staticmethod
    def _number(entries, key, name, default):
        text = entries.get(key, "")
        if not text:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise ValueError(f"{name}: expected a number as the {key} of its data, got {short(text)!r}")
        return int(text)


# -- graphs


class Value(NamedTuple):
    """An array of the model: a name, in the graph or the call where it is made."""

    scope: "Scope"
    name: str

    @property
    def producer(self):
        """The `Node` whose output it is, or None."""
        return self.scope.producers.get(self.name)


class Node:
    """A node of a graph, or of a function as it is called once."""

    def __init__(self, scope, proto):
        self.scope, self.op, self.domain = scope, _decoded(proto.op_type), _decoded(proto.domain)
        self.outputs = list(proto.output)
        self._proto = proto
        self._scopes = None

    @property
    def name(self):
        """Of the node, or where it has none, of an output."""
        return _decoded(self._proto.name) or f"{self.op} {next(filter(None, self.outputs), '')!r}"

    @property
    def is_gru(self):
        return self.op == "GRU" and self.domain in _DOMAINS

    @property
    def inputs(self):
        """The `Value` of each input; None for one that is left out, or that nothing makes."""
        return [self.input(i) for i in range(len(self._proto.input))]

    def input(self, index):
        names = self._proto.input
        return self.scope.value(names[index]) if index < len(names) and names[index] else None

    def input_name(self, index):
        return self._proto.input[index] if index < len(self._proto.input) else ""

    def attributes(self):
        """dict of the attributes; bytes are decoded, graphs left out."""
        found = {}
        for attribute in self._proto.attribute:
            source = self.scope.attribute_of_call(attribute)
            if source is None or source.type in (_GRAPH, _GRAPHS):
                continue
            try:
                value = self.scope.model.onnx.helper.get_attribute_value(source)
            except ValueError as error:
                raise ValueError(f"{self.name}: expected attributes, got {attribute.name!r}: {error}") from None
            if not isinstance(value, (bytes, int, float)) and hasattr(value, "__iter__"):
                value = [_decoded(part) for part in value]
            found[attribute.name] = _decoded(value)
        return found

    def attribute(self, name, default=None):
        return self.attributes().get(name, default)

    def integer(self, name, default):
        value = self.attribute(name, default)
        if not isinstance(value, int):
            raise ValueError(f"{short(self.name)}: expected an integer as {name}, got {short(value)!r}")
        return value

    def integers(self, name):
        """A list, None where there is none."""
        value = self.attribute(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(part, int) for part in value)):
            raise ValueError(f"{short(self.name)}: expected integers as {name}, got {short(value)}")
        return value

    def scopes(self):
        """The graphs that it holds, and the call that it is."""
        if self._scopes is None:
            self._scopes = []
            for attribute in self._proto.attribute:
                graphs = [attribute.g] if attribute.type == _GRAPH else attribute.graphs
                label = f"{self.name}/{attribute.name}" if self.op == "If" else self.name
                self._scopes += [Scope(self.scope.model, graph, label, outer=self.scope) for graph in graphs]
            call = self.call()
            self._scopes += [call] if call is not None and call.has_gru else []
        return self._scopes

    def call(self):
        """The `Scope` of the function that it calls, or None."""
        return self.scope.model.call(self)


def _decoded(value):
    """Text; what is no UTF-8 comes as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


class Scope:
    """A graph, or a function as it is called once, with the names that are made in it."""

    def __init__(self, model, graph, label, outer=None, caller=None):
        model.count(len(graph.node))
        self.model, self._graph, self.outer, self._caller = model, graph, outer, caller
        around = outer or (caller.scope if caller else None)
        self.path = "/".join(filter(None, (around.path if around else "", label)))
        versions = () if outer else model.versions_of(graph)
        self.versions = outer.versions if outer else {entry.domain: entry.version for entry in versions}
        self.nodes = [Node(self, proto) for proto in graph.node]
        self.initializers = {} if caller else {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = list(graph.input) if caller else [value.name for value in graph.input]
        self.inputs = [name for name in self.inputs if name not in self.initializers]
        self._inputs = set(self.inputs)
        self.producers = {}
        for node in self.nodes:
            for name in filter(None, node.outputs):
                if name in self.producers or name in self.initializers or name in self._inputs:
                    raise ValueError(f"model: expected one node or input for each array, got more for {short(name)!r}")
                self.producers[name] = node

    @property
    def function(self):
        """What the call is of; None for a graph."""
        return self._graph if self._caller else None

    @property
    def has_gru(self):
        return self.model.has_gru(self._graph)

    @property
    def version(self):
        """Of the operators of ONNX itself."""
        return max((self.versions.get(domain, 0) for domain in _DOMAINS), default=0)

    def value(self, name):
        """The `Value` of a name that is seen here, wherever it is made; None if there is none."""
        return self.model.value(self, name)

    def makes(self, name):
        return name in self.producers or name in self.initializers or name in self._inputs

    def actual(self, name):
        """(scope, name) of what a call gives for this input of the function; None in place of a name that it leaves
        out."""
        if self._caller is None or name not in self._inputs:
            return None
        given = self._caller.input_name(self.inputs.index(name))
        return self._caller.scope, given or None

    def outputs(self):
        """The `Value`s that a graph gives; a call gives them to the nodes around it."""
        return [] if self._caller else [self.value(output.name) for output in self._graph.output]

    def types(self):
        """dict of name to what the graph says of the shapes of its arrays."""
        if self._caller:
            return {}
        known = [*self._graph.value_info, *self._graph.output, *self._graph.input]
        return {value.name: value.type.tensor_type for value in known if value.type.HasField("tensor_type")}

    def attribute_of_call(self, attribute):
        """The attribute; where it stands for one of the function's, that of the call or the function's own."""
        scope = self
        while attribute is not None and attribute.ref_attr_name:
            while scope is not None and scope.function is None:  # in a graph within the function
                scope = scope.outer
            if scope is None:
                return None
            name, caller = attribute.ref_attr_name, scope._caller
            own = [one for one in (*caller._proto.attribute, *scope._graph.attribute_proto) if one.name == name]
            attribute, scope = (own[0] if own else None), caller.scope
        return attribute


class Model:
    """The graphs of a model, and the calls of its functions."""

    def __init__(self, onnx, proto):
        self.onnx, self._proto = onnx, proto
        self._functions = {(function.domain, function.name): function for function in proto.functions}
        self._with_gru = self._functions_with_gru()
        self._calls = {}
        nodes = len(proto.graph.node) + sum(len(function.node) for function in proto.functions)
        self._left = 10_000 + 64 * nodes
        self.main = Scope(self, proto.graph, "")

    def count(self, nodes):
        """A few functions that call one another often stand for more nodes than a machine can hold."""
        self._left -= nodes + 1
        if self._left < 0:
            raise ValueError("model: expected functions that are called some times, got calls without end")

    def versions_of(self, graph):
        return self._proto.opset_import if graph is self._proto.graph else graph.opset_import

    def _functions_with_gru(self):
        """The names of the functions that have a GRU, in themselves or in what they call."""
        calls, found = {}, set()
        for key, function in self._functions.items():
            nodes, calls[key] = list(function.node), set()
            while nodes:
                node = nodes.pop()
                calls[key].add((node.domain, node.op_type))
                if node.op_type == "GRU" and node.domain in _DOMAINS:
                    found.add(key)
                for attribute in node.attribute:
                    nodes += attribute.g.node if attribute.type == _GRAPH else ()
                    nodes += [inner for graph in attribute.graphs for inner in graph.node]
        grown = True
        while grown:
            more = {key for key, called in calls.items() if called & found} - found
            found, grown = found | more, bool(more)
        return found

    def has_gru(self, function):
        return (function.domain, function.name) in self._with_gru

    def call(self, node):
        """The `Scope` of the function that a node calls; None where it calls none."""
        function = self._functions.get((node.domain, node.op))
        if function is None:
            return None
        if node not in self._calls:
            scope = node.scope
            while scope is not None:
                if scope.function is function:
                    raise ValueError(f"model: expected functions that do not call themselves, got {function.name!r}")
                scope = scope.outer or (scope._caller.scope if scope._caller else None)
            self._calls[node] = Scope(self, function, node.name, caller=node)
        return self._calls[node]

    def value(self, scope, name):
        """The `Value` of a name that is seen in a scope."""
        seen = set()
        while True:
            if (scope, name) in seen:
                raise ValueError(f"model: expected arrays that do not depend on themselves, got {short(name)!r}")
            seen.add((scope, name))
            while not scope.makes(name):
                scope = scope.outer
                if scope is None:
                    return None
            actual, producer = scope.actual(name), scope.producers.get(name)
            if actual is not None:
                scope, name = actual
                if name is None:
                    return None
            elif producer is not None and producer.call() is not None:
                call, outputs = producer.call(), producer.outputs
                given = list(call.function.output)
                if outputs.index(name) >= len(given):
                    return None
                scope, name = call, given[outputs.index(name)]
            else:
                return Value(scope, name)

    def nodes(self):
        """Yield all nodes, those of graphs in graphs and of functions with a GRU right after the node that has them."""
        left = [iter(self.main.nodes)]
        while left:
            node = next(left[-1], None)
            if node is None:
                left.pop()
                continue
            yield node
            left += [iter(scope.nodes) for scope in reversed(node.scopes())]
