"""Notebooks for tests: their cells, and what they show when they are executed in their smoke form."""

import ast
import os
import pathlib

import nbclient
import nbformat
import tiny

FOLDER = pathlib.Path(tiny.ROOT, "colabs")


def read(name):
    """The notebook colabs/NAME.ipynb."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(book):
    """The sources of its code cells, in order."""
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def parameters(book):
    """Where the cell of sizes stands, and the names that it gives values: (index, {name, ...})."""
    ((index, cell),) = [(i, c) for i, c in enumerate(book.cells) if "parameters" in c.metadata.get("tags", ())]
    assigned = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    targets = [target for node in assigned for target in node.targets]
    return index, {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def execute(name, folder, **changes):
    """Runs a notebook from top to bottom in a kernel of its own in `folder`, with other values of its parameters.

    -> (all it printed, how many pictures it showed). Raises nbclient's CellExecutionError, with the cell and the error.
    """
    book = read(name)
    index, known = parameters(book)
    assert set(changes) <= known, f"{name} has the parameters {known}, not {set(changes) - known}"
    lines = [f"{key} = {value!r}" for key, value in changes.items()]
    book.cells.insert(index + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    cache = {
        "JAX_COMPILATION_CACHE_DIR": f"{tiny.ROOT}/.jax_cache",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    homes = {key: str(folder / "jupyter") for key in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR")}
    env = os.environ | cache | homes | {"PYTHONPATH": str(tiny.ROOT), "JAX_PLATFORMS": "cpu"}
    env.pop("MPLBACKEND", None)
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=env)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    complaints = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert complaints == [], f"{name} warns: {complaints}"
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    return printed, sum("image/png" in output.get("data", ()) for output in outputs)
