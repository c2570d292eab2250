"""Network ports from sysfs: a recorded H100 node, and trees of our own making."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.parsers.link_counters import card_reading, reading
from warpline_agent.source import Tree
from warpline_agent.sources.infiniband import Infiniband, InfinibandConfig, InfinibandTree
from warpline_proto.errors import Refused, Unsupported

PORT = {
    "state": "4: ACTIVE\n",
    "phys_state": "5: LinkUp\n",
    "rate": "400 Gb/sec (4X NDR)\n",
    "link_layer": "InfiniBand\n",
    "counters/port_xmit_data": "100\n",
    "counters/link_downed": "255\n",
    "counters/port_rcv_errors": "N/A (no PMA)\n",
    "hw_counters/out_of_sequence": "7\n",
    "hw_counters/lifespan": "10\n",
}


def write_port(root: Path, device: str = "mlx5_0", **changes: str) -> Path:
    folder = root / "class" / "infiniband" / device / "ports" / "1"
    for name, text in {**PORT, **changes}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def write_card(root: Path, name: str, speed: str = "100000") -> None:
    folder = root / "class" / "net" / name
    (folder / "statistics").mkdir(parents=True)
    (folder / "statistics" / "rx_bytes").write_text("12\n")
    (folder / "statistics" / "rx_crc_errors").write_text("3\n")
    (folder / "operstate").write_text("up\n")
    (folder / "speed").write_text(speed + "\n")


def tree_of(root: Path) -> Tree:
    names = frozenset(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return Tree(str(root), root, names)


def by_counter(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["device"], row["counter"]): row for row in rows}


def read(source: Infiniband) -> list[dict[str, Any]]:
    return [row for rows in source.read() for row in rows.batch.to_pylist()]


@pytest.fixture(scope="module")
def recorded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("sysfs")
    with tarfile.open(data / "E-kernel-ib" / "gpud" / "sys-class-infiniband-h100.tar.gz") as archive:
        archive.extractall(root, filter="data")
    return tree_of(root)


@pytest.mark.data
def test_a_recorded_h100_node_is_read_port_by_port(recorded: Tree) -> None:
    tree = InfinibandTree()
    assert tree.recognises_tree(recorded)
    reading_ = tree.read_tree(recorded)
    rows = by_counter(reading_.rows[0].batch.to_pylist())
    devices = {device for device, _ in rows}
    assert len(devices) == reading_.facts["adapters"] == 9 == reading_.facts["ports_active"]
    assert {device for device in devices if rows[device, "link_downed"]["value"]} == {"mlx5_1"}
    assert (rows["mlx5_1", "link_downed"]["value"], rows["mlx5_1", "link_downed"]["saturated"]) == (255, True)
    assert not rows["mlx5_0", "link_downed"]["saturated"]
    assert {rows[device, "symbol_error"]["value"] for device in devices} == {0}
    assert {rows[device, "link_error_recovery"]["value"] for device in devices} == {0}
    ethernet = rows["mlx5_bond_0", "rate"]
    assert (ethernet["link_kind"], ethernet["value"], ethernet["unit"]) == ("ethernet", 200_000_000_000, "bit/s")
    others = devices - {"mlx5_bond_0"}
    assert {(rows[d, "rate"]["link_kind"], rows[d, "rate"]["value"]) for d in others} == {("infiniband", 400 * 10**9)}
    assert rows["mlx5_0", "port_rcv_data"]["value"] == 230_539_874_932_483 * 4
    assert {row["time_ns"] for row in rows.values()} == {None}


@pytest.mark.data
def test_the_recorded_node_reads_live_as_well(recorded: Tree, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "infiniband").symlink_to(recorded.root / "sys-class-infiniband-h100.0")
    source = Infiniband(InfinibandConfig(sys=str(tmp_path)))
    source.open()
    assert len({row["device"] for row in read(source)}) == 9


def test_counters_have_units_and_words_become_bytes(tmp_path: Path) -> None:
    write_port(tmp_path)
    source = Infiniband(InfinibandConfig(sys=str(tmp_path)), clock_ns=lambda: 42)
    source.open()
    rows = by_counter(read(source))
    assert (rows["mlx5_0", "port_xmit_data"]["value"], rows["mlx5_0", "port_xmit_data"]["unit"]) == (400, "B")
    assert (rows["mlx5_0", "state"]["value"], rows["mlx5_0", "phys_state"]["value"]) == (4, 5)
    assert (rows["mlx5_0", "out_of_sequence"]["value"], rows["mlx5_0", "out_of_sequence"]["port"]) == (7, 1)
    assert ("mlx5_0", "port_rcv_errors") not in rows, "a counter that says N/A is unknown, not zero"
    assert ("mlx5_0", "lifespan") not in rows
    assert {row["time_ns"] for row in rows.values()} == {42}


@pytest.mark.parametrize(
    "name, text, saturated",
    [
        ("link_downed", "254", False),
        ("link_downed", "255", True),
        ("local_link_integrity_errors", "15", True),
        ("symbol_error", "65535", True),
        ("symbol_error", "255", False),
        ("port_xmit_wait", "4294967295", True),
        ("port_xmit_data", "4294967295", True),
        ("port_xmit_data", "4294967296", False),
        ("out_of_sequence", "4294967295", False),
        ("port_rcv_data", str(2**63), True),
    ],
)
def test_a_counter_at_the_ceiling_of_its_width_says_so(name: str, text: str, saturated: bool) -> None:
    found = reading(name, text)
    assert found is not None and found.saturated is saturated


@pytest.mark.parametrize("name", ["state", "rate", "symbol_error"])
@pytest.mark.parametrize("text", ["", "junk", "-1", "9" * 30, "\x00\xff", "1.2.3 Gb/sec"])
def test_junk_in_a_file_is_unknown(name: str, text: str) -> None:
    assert reading(name, text) is None


def test_network_cards_are_read_without_loopback(tmp_path: Path) -> None:
    write_card(tmp_path, "eth0")
    write_card(tmp_path, "lo")
    write_card(tmp_path, "down0", speed="-1")
    source = Infiniband(InfinibandConfig(sys=str(tmp_path)))
    source.open()
    rows = by_counter(read(source))
    assert {device for device, _ in rows} == {"eth0", "down0"}
    assert rows["eth0", "rate"]["value"] == 100 * 10**9
    assert (rows["eth0", "rx_bytes"]["unit"], rows["eth0", "rx_crc_errors"]["unit"]) == ("B", "errors")
    assert (rows["eth0", "state"]["value"], rows["eth0", "state"]["port"]) == (1, None)
    assert ("down0", "rate") not in rows, "-1 is how the kernel says unknown"
    assert card_reading("operstate", "nonsense") is None


def test_a_port_is_given_up_at_its_first_error_and_told(tmp_path: Path) -> None:
    bad = write_port(tmp_path, "mlx5_1")
    write_port(tmp_path, "mlx5_0")
    source = Infiniband(InfinibandConfig(sys=str(tmp_path)), clock=lambda: 0.0)
    source.open()
    (bad / "counters" / "link_downed").unlink()
    (bad / "counters" / "link_downed").mkdir()  # reading it is an error now
    assert {row["device"] for row in read(source)} == {"mlx5_0"}
    (told,) = source.health()
    assert told.subject == "mlx5_1/1" and "not read any more" in told.reason
    (bad / "counters" / "link_downed").rmdir()
    assert {row["device"] for row in read(source)} == {"mlx5_0"}, "not even once it would work again"


def test_a_port_that_was_taken_out_and_put_back_is_read_again(tmp_path: Path) -> None:
    now = [0.0]
    bad = write_port(tmp_path, "mlx5_1")
    write_port(tmp_path, "mlx5_0")
    source = Infiniband(InfinibandConfig(sys=str(tmp_path)), clock=lambda: now[0])
    source.open()
    (bad / "counters" / "link_downed").unlink()
    (bad / "counters" / "link_downed").mkdir()
    read(source)
    assert [part.subject for part in source.health()] == ["mlx5_1/1"]
    away = bad.parents[1].rename(tmp_path / "away")
    now[0] += 61.0
    read(source)
    assert list(source.health()) == []
    away.rename(bad.parents[1])
    (bad / "counters" / "link_downed").rmdir()
    now[0] += 61.0
    assert {row["device"] for row in read(source)} == {"mlx5_0", "mlx5_1"}


def test_a_machine_without_ports_is_a_state(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no network port"):
        Infiniband(InfinibandConfig(sys=str(tmp_path))).open()


def test_a_tree_without_ports_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    tree = InfinibandTree()
    assert not tree.recognises_tree(tree_of(tmp_path))
    with pytest.raises(Refused):
        tree.read_tree(Tree("x", tmp_path, frozenset({"../a/ports/1/state"})))


def test_a_tree_below_any_folder_is_found_and_takes_nothing_else_with_it(tmp_path: Path) -> None:
    write_port(tmp_path / "node7" / "sys")
    tree = InfinibandTree()
    found = tree.read_tree(tree_of(tmp_path))
    assert tree.recognises_tree(tree_of(tmp_path))
    assert found.facts["rates_bits_per_second"] == [400 * 10**9]
    assert found.facts["saturated_counters"] == ["mlx5_0/1 link_downed"]
    (tmp_path / "trace.json").write_text("{}")
    assert not tree.recognises_tree(tree_of(tmp_path))
    assert tree.recognises_tree(tree_of(tmp_path / "node7"))


def test_the_trees_of_two_nodes_are_two_trees(tmp_path: Path) -> None:
    write_port(tmp_path / "node7")
    write_port(tmp_path / "node8")
    assert not InfinibandTree().recognises_tree(tree_of(tmp_path))
