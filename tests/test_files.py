"""Files appear whole or not at all."""

import pytest

from manifold_diffusion._files import replacing, write_bytes


def test_a_draft_takes_the_place_of_the_file_when_the_block_ends(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("old")
    with replacing(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("stop", [OSError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_file_and_no_draft(tmp_path, stop):
    path = tmp_path / "numbers.txt"
    write_bytes(path, b"old")
    with pytest.raises(stop), replacing(path) as draft:
        draft.write_text("half")
        raise stop
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


def test_a_missing_folder_is_an_error_of_the_file_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "nowhere" / "numbers.txt", b"new")
