"""Who may call: a file of names and hashes that only its owner may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from openwafer.appliance._users import User, Users
from openwafer.base import InputError


def test_a_token_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    """Whoever reads the file learns no token; the file is for its owner anyway."""
    users = Users(tmp_path / "users.json")
    token = users.add("ann", admin=True)
    assert users.who(token) == User("ann", True)
    assert users.who(token + "x") is None
    assert users.who("") is None
    assert token not in (tmp_path / "users.json").read_text()
    assert (tmp_path / "users.json").stat().st_mode & 0o777 == 0o600


def test_users_come_and_go_while_the_appliance_runs(tmp_path: Path) -> None:
    """`wafer cluster user` writes the file that the node reads."""
    node, other = Users(tmp_path / "users.json"), Users(tmp_path / "users.json")
    old = other.add("bob")
    assert node.who(old) == User("bob", False)
    new = other.add("bob", admin=True)
    assert node.who(old) is None
    assert node.who(new) == User("bob", True)
    assert node.names == {"bob": True}
    other.remove("bob")
    assert node.who(new) is None
    with pytest.raises(InputError, match="there is no user 'bob'"):
        other.remove("bob")


def test_a_users_volumes_stay_while_others_come_and_go(tmp_path: Path) -> None:
    """They are part of what the user may do, and a new token says it anew."""
    data = tmp_path / "data"
    data.mkdir()
    users = Users(tmp_path / "users.json")
    token = users.add("ann", volumes=[data])
    users.add("bob")
    users.remove("bob")
    assert users.who(token) == User("ann", False, (str(data),))
    found = users.who(users.add("ann"))
    assert found is not None
    assert found.volumes == ()
    with pytest.raises(InputError, match=r"the volume .* is no folder; make it"):
        users.add("ann", volumes=[tmp_path / "nowhere"])


def test_a_file_that_others_can_read_or_that_makes_no_sense_lets_nobody_in(tmp_path: Path) -> None:
    """Hashes of random tokens tell little; an open file means that something went wrong."""
    file = tmp_path / "users.json"
    Users(file).add("ann")
    file.chmod(0o644)
    with pytest.raises(InputError, match=r"open to others; run: chmod 600 "):
        Users(file)
    file.chmod(0o600)
    file.write_text('[{"name": "eve", "password": "1234"}]')
    with pytest.raises(InputError, match="makes no sense: Object contains unknown field `password`"):
        Users(file)


@pytest.mark.parametrize("name", ["", "a b", "../x", "-v", "x" * 65])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    """They stand in logs, tables and queries."""
    with pytest.raises(InputError, match="is no user's name"):
        Users(tmp_path / "users.json").add(name)
