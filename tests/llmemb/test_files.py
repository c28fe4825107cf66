"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from llmemb.files import replacing_directory, replacing_file, sweep_leftovers


def fail_with_full_disk(path: Path) -> None:
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    for content in ("one", "two"):
        with replacing_directory(target) as folder:
            (folder / "file").write_text(content)
            assert not (target / "file").exists() or (target / "file").read_text() != content
        assert (target / "file").read_text() == content
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]


def test_others_may_read_what_was_written_for_the_owner_alone(tmp_path: Path) -> None:
    with replacing_directory(tmp_path / "bundle") as folder:
        (folder / "deep").mkdir(mode=0o700)
        (folder / "deep" / "file").touch(mode=0o600)
    modes = [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "bundle").rglob("*"))]
    assert modes == [0o755, 0o644]


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    for name in (".bundle.abc.partial", ".bundle.abc.old", ".other.abc.partial", "bundle"):
        (tmp_path / name).mkdir()
    sweep_leftovers(tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.abc.partial", "bundle"]


def test_a_full_disk_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with replacing_directory(target) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(OSError, match="No space"), replacing_directory(target) as folder:
        fail_with_full_disk(folder / "file")
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    target.write_text("old")
    with pytest.raises(OSError, match="No space"), replacing_file(target) as aside:
        fail_with_full_disk(aside)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
