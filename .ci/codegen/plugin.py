"""Changes the code that ariadne-codegen generates, so that the client works with a newer gateway."""

import ast

from ariadne_codegen.plugins.base import Plugin
from graphql import is_interface_type

_MODULE = "app.client.newer"


class ClientPlugin(Plugin):
    """Accepts enum values and types in unions that the schema does not contain yet.

    `BaseClient.parsed` parses the responses, so that the client's own errors describe one that does not match.
    """

    def process_name(self, name, node=None):
        """The Python name: `sha256`, where the generator writes `sha_256`."""
        return name.replace("sha_256", "sha256")

    def generate_enum(self, class_def, enum_type):
        class_def.bases = [ast.Name("OpenEnum")]
        return class_def

    def generate_enums_module(self, module):
        module.body = [_import("OpenEnum"), *(node for node in module.body if isinstance(node, ast.ClassDef))]
        return module

    def generate_result_field(self, field_implementation, operation_definition, field):
        interfaces = [name for name, type_ in self.schema.type_map.items() if is_interface_type(type_)]
        field_implementation.annotation = _Open(interfaces).visit(field_implementation.annotation)
        return field_implementation

    def generate_result_types_module(self, module, operation_definition):
        return _with_unknown(module)

    def generate_fragments_module(self, module, fragments_definitions):
        return _with_unknown(module)

    def generate_client_module(self, module):
        module.body.insert(0, _import("aclosing", "contextlib"))
        return _ClientModule().visit(module)


class _Open(ast.NodeTransformer):
    """Adds a type that accepts anything to the end of each union: its interface's, if it has one, or Unknown."""

    def __init__(self, interfaces):
        self._interfaces = tuple(interfaces)

    def visit_Subscript(self, node):
        self.generic_visit(node)
        match node:
            case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=members)):
                node.slice.elts = sorted(members, key=self._is_interface)
                if not self._is_interface(node.slice.elts[-1]):
                    node.slice.elts.append(ast.Name("Unknown"))
                in_turn = ast.Call(ast.Name("Field"), [], [ast.keyword("union_mode", ast.Constant("left_to_right"))])
                return ast.Subscript(ast.Name("Annotated"), ast.Tuple([node, in_turn]))
            case ast.Subscript(value=ast.Name(id="Literal"), slice=named):
                names = named.elts if isinstance(named, ast.Tuple) else [named]
                return ast.Name("str") if any(_text(name) in self._interfaces for name in names) else node
        return node

    def _is_interface(self, member):
        return _text(member).endswith(self._interfaces)


class _ClientModule(ast.NodeTransformer):
    """Parses responses with `BaseClient.parsed`, and closes a subscription when its reader ends.

    Removes **kwargs, which BaseClient does not take.
    """

    def visit_arguments(self, node):
        node.kwarg = None
        return node

    def visit_Call(self, node):
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg is not None]
        match node:
            case ast.Call(func=ast.Attribute(value=model, attr="model_validate"), args=[data]):
                return ast.Call(ast.Attribute(ast.Name("self"), "parsed"), [model, data], [])
        return node

    def visit_AsyncFunctionDef(self, node):
        self.generic_visit(node)
        match node.returns:
            case ast.Subscript(value=ast.Name(id="AsyncIterator"), slice=item):
                node.returns = ast.Subscript(ast.Name("AsyncGenerator"), ast.Tuple([item, ast.Constant(None)]))
        return node

    def visit_ImportFrom(self, node):
        for alias in node.names:
            alias.name = alias.name.replace("AsyncIterator", "AsyncGenerator")
        return node

    def visit_AsyncFor(self, node):
        self.generic_visit(node)
        answers = ast.Call(ast.Name("aclosing"), [node.iter], [])
        node.iter = ast.Name("answers")
        closing = ast.AsyncWith([ast.withitem(answers, ast.Name("answers"))], [node])
        return ast.copy_location(closing, node)


def _text(node):
    """A string in an annotation. The generator uses several kinds of nodes for it."""
    return ast.unparse(node).strip("\"'")


def _with_unknown(module):
    if any(isinstance(node, ast.Name) and node.id == "Unknown" for node in ast.walk(module)):
        module.body.insert(0, _import("Unknown"))
    return module


def _import(name, module=_MODULE):
    return ast.ImportFrom(module, [ast.alias(name)], 0)
