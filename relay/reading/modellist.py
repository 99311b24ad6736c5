"""``model_list`` → model groups; what cannot be served is named and left out (SPEC §3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import Deployment, ModelGroup
from ..values import replace
from .document import Table
from .entry import PARAMS, Skipped, Surroundings, read_entry
from .kinds import TEXT, is_label
from .litellm import is_price
from .section import Section, name_of, nearest

if TYPE_CHECKING:
    from .document import Place

#: The keys of an entry.
ENTRY = ("model_name", "litellm_params", "model_info")


class ModelList:
    """Reads entries one after another; then holds the groups."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self._unserved: dict[str, str] = {}
        self._skipped: list[tuple[Place, str]] = []
        self._members: dict[str, list[Deployment]] = {}
        self._named: dict[str, Place] = {}  # ids that the file gives, and where
        self._derived: list[tuple[str, int]] = []  # group and index of those that it does not

    @property
    def groups(self) -> dict[str, ModelGroup]:
        """The groups that are served, in the order of the file."""
        return {name: ModelGroup(name, tuple(members)) for name, members in self._members.items()}

    @property
    def unserved(self) -> dict[str, str]:
        """The groups of which no entry is served, and why."""
        return {name: reason for name, reason in self._unserved.items() if name not in self._members}

    def read(self, root: Section) -> None:
        """All entries of ``model_list``."""
        report = self.around.references.report
        before = len(report.problems)
        place = root.place_of("model_list")
        nodes = root.take_items("model_list", "a list of entries with a model_name")
        for node in nodes:
            if isinstance(node, Table):
                self._entry(Section(node, "", self.around.references))
            else:
                report.problem(node.place, f"model_list: expected entries with a model_name, found {name_of(node)}")
        self._derive_ids()
        if not self._members and len(report.problems) == before:
            why = "nothing in it can be served" if nodes else "it is missing or empty"
            report.problem(place, f"model_list: {why}, so there is nothing to start for")
            for where, message in self._skipped:
                report.problem(where, message)
        if self.around.without_effect:
            keys = ", ".join(sorted(self.around.without_effect))
            report.warn(place, f"model_list: these keys of litellm_params have no effect here: {keys}")

    def _entry(self, entry: Section) -> None:
        name_place, has_name = entry.place_of("model_name"), entry.has("model_name")
        name = entry.take("model_name", TEXT, "")
        if not has_name:
            entry.problem(name_place, "model_name is missing; it is the name that clients ask for")
        has_params = "litellm_params" in entry.entries
        params = entry.take_section("litellm_params", path="")
        info = entry.take_section("model_info", path="")
        misspelt = self._leftovers(entry)
        if not has_params:
            if not misspelt:
                entry.problem(entry.place, "litellm_params is missing; its model says what the upstream is asked for")
            return
        if "*" in name[:-1]:
            self._skip(name, name_place, Skipped("a * may only stand at the end of a model_name"))
            return
        id_place = info.place_of("id")
        found = read_entry(name, params, info, self.around)
        if isinstance(found, Skipped):
            self._skip(name, name_place, found)
        else:
            for deployment in found:
                self._add(deployment, id_place)

    def _leftovers(self, entry: Section) -> bool:
        """Keys beside ``litellm_params``; whether one of them is misspelt. Misplaced ones are said to do nothing."""
        misspelt = False
        for key, (place, _) in entry.entries.items():
            near = nearest(key, ENTRY)
            if near:
                misspelt = True
                entry.problem(place, f"{key}: unknown key; did you mean {near}?")
            elif key in PARAMS or is_price(key):
                entry.report.warn(place, f"{key}: has no effect here; it belongs under litellm_params")
            elif not key.startswith("x-"):
                entry.report.warn(place, f"{key}: unknown key, ignored")
        return misspelt

    def _skip(self, name: str, place: Place, skipped: Skipped) -> None:
        """Leave an entry out and say so; its group stays known."""
        self._unserved.setdefault(name, skipped.reason)
        message = f"{name}: {skipped.reason}; entry skipped{skipped.advice}"
        self._skipped.append((place, message))
        self.around.references.report.warn(place, message)

    def _add(self, deployment: Deployment, id_place: Place) -> None:
        members = self._members.setdefault(deployment.group, [])
        if not deployment.id:
            self._derived.append((deployment.group, len(members)))
        elif deployment.id in self._named:
            first = self._named[deployment.id]
            message = f"id: {deployment.id!r} is already the id of another entry (line {first.line})"
            self.around.references.report.problem(id_place, message)
        else:
            self._named[deployment.id] = id_place
        members.append(deployment)

    def _derive_ids(self) -> None:
        """``gpt-4/api.openai.com/1``: group, base, position in the group; never from the key. Given ids come first."""
        taken = set(self._named)
        for group, index in self._derived:
            deployment = self._members[group][index]
            base = deployment.base
            host = (base.unix or "").rpartition("/")[2] or base.authority.decode()
            stem = "".join(letter if is_label(letter) else "_" for letter in group) + f"/{host}/"
            position = index + 1
            while f"{stem}{position}" in taken:
                position += 1
            taken.add(f"{stem}{position}")
            self._members[group][index] = replace(deployment, id=f"{stem}{position}")
