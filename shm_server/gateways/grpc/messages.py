"""Classes of the messages that the .proto files beside this one describe.

    inference = read("open_inference")
    inference.ModelReadyRequest(name="iris").SerializeToString()
    inference.methods["ModelReady"]                             # ModelReadyRequest, ModelReadyResponse

protoc makes such classes ahead of time, for one range of protobuf's versions each time. What our files need of its
language is little: messages, enums, fields, maps and oneofs, and services whose messages are their own.
"""

import re
from collections.abc import Iterator
from importlib import resources
from types import SimpleNamespace
from typing import NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

_TOKEN = re.compile(r'//[^\n]*|"[^"]*"|[\w.]+|[^\s\w]')
_SCALARS = {
    name.removeprefix("TYPE_").lower(): number
    for name, number in FieldDescriptorProto.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}


class Method(NamedTuple):
    request: type
    response: type


def read(name: str) -> SimpleNamespace:
    """The messages of NAME.proto by their names, and of its service the full name, `service`, and the `methods`."""
    text = resources.files(__package__).joinpath(f"{name}.proto").read_text()
    file, service, methods = _Reader(text).file(name)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    there = pool.FindFileByName(file.name).message_types_by_name
    found = SimpleNamespace(**{each: message_factory.GetMessageClass(there[each]) for each in there})
    found.package = file.package
    found.service = f"{file.package}.{service}"
    found.methods = {
        each: Method(getattr(found, asked), getattr(found, given)) for each, (asked, given) in methods.items()
    }
    return found


class _Reader:
    """Of one file's words, which are right: they are ours."""

    def __init__(self, text: str) -> None:
        self._words: Iterator[str] = (word for word in _TOKEN.findall(text) if not word.startswith("//"))
        self._enums = set(re.findall(r"enum (\w+)", text))

    def file(self, name: str) -> tuple[FileDescriptorProto, str, dict[str, tuple[str, str]]]:
        file = FileDescriptorProto(name=f"shm_server/{name}.proto", syntax="proto3")
        for word in self._words:
            if word == "syntax":
                self._until(";")
            elif word == "package":
                file.package = self._until(";")[0]
            elif word == "message":
                self._message(file.message_type.add())
            elif word == "enum":
                self._enum(file.enum_type.add())
            elif word == "service":
                (service,) = self._until("{")
                methods = self._methods()
        return file, service, methods

    def _methods(self) -> dict[str, tuple[str, str]]:
        found = {}
        while next(self._words) == "rpc":
            name, _, asked, _, _, _, given, *_ = self._until("}")  # NAME ( ASKED ) returns ( GIVEN ) { }
            found[name] = asked, given
        return found

    def _message(self, to: DescriptorProto) -> None:
        to.name, _ = next(self._words), next(self._words)
        while (word := next(self._words)) != "}":
            if word == "message":
                self._message(to.nested_type.add())
            elif word == "enum":
                self._enum(to.enum_type.add())
            elif word == "oneof":
                to.oneof_decl.add(name=next(self._words))
                next(self._words)
                while (kind := next(self._words)) != "}":
                    self._field(to, kind).oneof_index = len(to.oneof_decl) - 1
            elif word == "repeated":
                self._field(to, next(self._words)).label = FieldDescriptorProto.LABEL_REPEATED
            elif word == "map":
                self._map(to)
            else:
                self._field(to, word)

    def _field(self, to: DescriptorProto, kind: str) -> FieldDescriptorProto:
        name, _, number = self._until(";")
        field = to.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
        _type(field, kind, self._enums)
        return field

    def _map(self, to: DescriptorProto) -> None:
        _, key, _, value, _, name, _, number = self._until(";")  # < KEY , VALUE > NAME = NUMBER
        entry = to.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        for number_, (part, kind) in enumerate((("key", key), ("value", value)), 1):
            field = entry.field.add(name=part, number=number_, label=FieldDescriptorProto.LABEL_OPTIONAL)
            _type(field, kind, self._enums)
        field = to.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_REPEATED)
        _type(field, entry.name, self._enums)

    def _enum(self, to: EnumDescriptorProto) -> None:
        to.name, _ = next(self._words), next(self._words)
        while (name := next(self._words)) != "}":
            _, number = self._until(";")
            to.value.add(name=name, number=int(number))

    def _until(self, end: str) -> list[str]:
        words = []
        while (word := next(self._words)) != end:
            words.append(word)
        return words


def _type(field: FieldDescriptorProto, kind: str, enums: set[str]) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = FieldDescriptorProto.TYPE_ENUM if kind in enums else FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = kind
