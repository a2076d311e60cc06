"""The notebooks: thin, complete, and executed from top to bottom in their smoke form as a user's Jupyter would.

Those that train longest are executed in test_colabs_training.py, so that two workers share them.
"""

import ast
import re
import tomllib

import notebooks
import pytest
import tiny

NAMES = sorted(path.stem for path in notebooks.FOLDER.glob("*.ipynb"))
REPOSITORY = tomllib.loads((tiny.ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
README = (tiny.ROOT / "README.md").read_text(encoding="utf-8")


def test_there_are_seven():
    assert len(NAMES) == 7


@pytest.mark.parametrize("name", NAMES)
def test_a_badge_and_an_install_cell_open_it_in_colab(name):
    title, install = notebooks.read(name).cells[:2]
    on_colab = f"https://colab.research.google.com/github/{REPOSITORY.removeprefix('https://github.com/')}"
    badge = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    assert title.source.startswith("# ")
    assert f"{badge}({on_colab}/blob/main/colabs/{name}.ipynb)" in title.source
    assert f'%pip install -q "vidjax[{{extras}}] @ git+{REPOSITORY}"' in install.source
    assert f"({on_colab}/blob/main/colabs/{name}.ipynb)" in README


@pytest.mark.parametrize("name", NAMES)
def test_it_is_thin(name):
    book = notebooks.read(name)
    for source in notebooks.code(book):
        assert len(source.splitlines()) <= 10, source
        tree = ast.parse(re.sub(r"^(\s*)%.*", r"\1pass", source, flags=re.MULTILINE))
        kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
        assert not [node for node in ast.walk(tree) if isinstance(node, kinds)], source
    assert sum(cell.cell_type == "markdown" for cell in book.cells) >= 5
    assert notebooks.parameters(book)[0] == 2  # right behind the install cell


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_without_outputs(name):
    for cell in notebooks.read(name).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_it_explores_a_model(tmp_path):
    sizes = {"STEPS": 2, "BATCH": 4, "TRAIN": 32, "EVALUATION": 16, "CLIP": "data/motion/eval/clockwise/00001.mp4"}
    sizes |= {"NETS": "c3d:small x3d:small", "METHODS": "gradcam"}
    printed, pictures = notebooks.execute("explore_a_model", tmp_path, **sizes)
    assert "228,536 parameters, 80,947,712 multiply-adds" in printed
    assert "pre_logits" in printed
    assert pictures == 5


def test_it_reads_and_compares_reports(tmp_path):
    printed, pictures = notebooks.execute(
        "evaluation_reports", tmp_path, STEPS=2, EVERY=1, BATCH=4, TRAIN=32, EVALUATION=16, NETS=("frame_pool", "r3d")
    )
    assert "McNemar" in printed
    assert "-> average" in printed
    assert pictures >= 4


def test_it_converts_a_pytorch_checkpoint(tmp_path):
    printed, pictures = notebooks.execute("convert_a_pytorch_checkpoint", tmp_path, NET="mc3_18", FRAMES=4, SIZE=32)
    assert "... 122 tensors, 11,705,060 numbers" in printed
    assert "fc.bias" in printed
    assert "names equal: True\nvalues equal: True" in printed
    assert pictures == 1
