"""Groups of a data set's classes, read from a file: those that ship were fixed before any model was looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from results.printable import has_controls, printable

FOLDER = Path(__file__).parent / "groups"

MOST_BYTES = 1_000_000

NONE_FOR = {
    "mnist": "its ten digits fall into no groups that anybody fixed beforehand",
    "digits": "its ten digits fall into no groups that anybody fixed beforehand",
    "svhn": "its ten digits fall into no groups that anybody fixed beforehand",
}


class GroupsError(ValueError):
    """Groups that cannot be had or do not fit; the message is one line and names the file and the field."""


def _one_line(value: str) -> str:
    text = value.strip()
    if not text or has_controls(text):
        raise ValueError(f"must be one line with something on it, got {text[:40]!r}")
    return text


def _member(value: object) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"must be the name or the number of a class, got {str(value).lower()[:40]!r}")
    return _one_line(value) if isinstance(value, str) else value


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a name, in quotes where it looks like a number: '{str(value)[:40]}'")
    return _one_line(value)


Name = Annotated[str, PlainValidator(_name)]


class GroupsFile(BaseModel):
    """`groups`: names of groups and their classes, each by name or by number from 0.

    `classes` names the classes in the order of their numbers; left out, names are the data set's, where it has any.
    `datasets` are those that the groups of a file that ships are for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: dict[Name, Annotated[list[Annotated[str | int, PlainValidator(_member)]], Field(min_length=1)]]
    classes: tuple[Name, ...] | None = None
    datasets: tuple[Name, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Groups:
    """`classes` are names in the order of the labels; `labels` each class's group, a place in `names`."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    reason: str
    source: str

    def members(self, group: int) -> list[int]:
        return [index for index, label in enumerate(self.labels) if label == group]

    @property
    def order(self) -> list[int]:
        """The classes, group after group."""
        return [index for group in range(len(self.names)) for index in self.members(group)]


class _Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two groups of one name and says nothing; YAML allows none."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{printable(key.value)!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def groups_of(dataset: str, class_names: Sequence[str], num_classes: int, path: Path | None = None) -> Groups:
    """The groups that ship for a data set, or those of a file; GroupsError, one line, where they cannot be had."""
    return fitted(find_groups(dataset, path), dataset, class_names, num_classes)


def find_groups(dataset: str, path: Path | None = None) -> tuple[str, GroupsFile]:
    """The file of `groups_of`, not yet held against the classes, and its name."""
    if path is not None:
        return str(path), read_groups(path)
    base = dataset.partition(":")[0]
    for file, content in shipped():
        if base in content.datasets:
            return file.name, content
    known = sorted(name for _, content in shipped() for name in content.datasets)
    why = NONE_FOR.get(base, f"groups ship for {', '.join(known)}")
    raise GroupsError(f"data set {dataset} has no groups of classes here: {why}; give yours by --groups FILE")


def shipped() -> list[tuple[Path, GroupsFile]]:
    return [(path, read_groups(path)) for path in sorted(FOLDER.glob("*.yaml"))]


def read_groups(path: Path) -> GroupsFile:
    """A file of groups; GroupsError names the file and the field."""
    try:
        with path.open("rb") as file:
            payload = file.read(MOST_BYTES + 1)
        text = payload.decode()
    except OSError as error:
        raise GroupsError(f"groups {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise GroupsError(f"groups {path} is not text in UTF-8") from None
    if len(payload) > MOST_BYTES:
        raise GroupsError(f"groups {path} is refused: it has more than {MOST_BYTES:,} bytes")
    try:
        content: Any = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        raise GroupsError(f"groups {path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise GroupsError(
            f"groups {path}: the file: must name groups and their classes, as in groups: {{a: [0, 1], b: [2]}}"
        )
    try:
        return GroupsFile.model_validate(content)
    except ValidationError as error:
        errors = error.errors()
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])  # a typo explains others
        where = ".".join(printable(str(part)) for part in first["loc"] if part != "[key]") or "the file"
        if first["type"] == "extra_forbidden":
            known = ", ".join(GroupsFile.model_fields)
            raise GroupsError(f"groups {path}: unknown field {where}; known: {known}") from None
        raise GroupsError(f"groups {path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def fitted(found: tuple[str, GroupsFile], dataset: str, class_names: Sequence[str], num_classes: int) -> Groups:
    """A file's groups of these classes; GroupsError where a class is in no group or in two, or is none.

    Also where a name stands for another class than in the data set, or a number is the name of another class.
    """
    source, content = found
    where = f"groups {source}"
    names = tuple(content.classes or class_names or map(str, range(num_classes)))
    if len(names) != num_classes:
        raise GroupsError(f"{where}: it is for {len(names)} classes, {dataset} has {num_classes}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GroupsError(f"{where}: classes: {twice!r} is there twice")
    for index, name in enumerate(class_names):
        if name in names and names.index(name) != index:
            raise GroupsError(
                f"{where}: classes: {name!r} has the number {names.index(name)} there and {index} in {dataset}"
            )
    labels: dict[int, str] = {}
    for group, members in content.groups.items():
        for member in members:
            index = _index(where, group, member, names)
            if index in labels:
                others = f"in {labels[index]!r} and in {group!r}" if labels[index] != group else f"twice in {group!r}"
                raise GroupsError(f"{where}: class {names[index]!r} is {others}")
            labels[index] = group
    missing = [name for index, name in enumerate(names) if index not in labels]
    if missing:
        raise GroupsError(f"{where}: class {missing[0]!r} is in no group ({len(missing)} of {num_classes} are in none)")
    if len(content.groups) < 2 or len(content.groups) == num_classes:
        raise GroupsError(f"{where}: there must be two groups or more, one of them with two classes or more")
    groups = tuple(content.groups)
    places = tuple(groups.index(labels[index]) for index in range(num_classes))
    return Groups(groups, names, places, " ".join(content.reason.split()), source)


def _index(where: str, group: str, member: str | int, names: Sequence[str]) -> int:
    """The class's number."""
    if isinstance(member, int):
        named = str(member)
        if named in names and names.index(named) != member:  # folders 0 to 11 come as 0, 1, 10, 11, 2, ...
            raise GroupsError(
                f"{where}: groups.{group}: {member} is the name of class {names.index(named)}; write '{member}' in "
                "quotes for that one, and names for all others"
            )
        if 0 <= member < len(names):
            return member
        raise GroupsError(f"{where}: groups.{group}: no class {member}, they are numbered 0 to {len(names) - 1}")
    if member not in names:
        known = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise GroupsError(f"{where}: groups.{group}: unknown class {member!r}; known: {known}")
    return names.index(member)
