import subprocess
import sys

import pytest

import anymask

HEAVY = {
    *("torch", "numpy", "cv2", "PIL", "pycocotools", "safetensors", "typer", "rich"),
    *("matplotlib", "skimage", "scipy", "lightning_fabric", "transformers"),
}


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `code`."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_loads_no_heavy_library():
    assert loaded_after("import anymask; anymask.PromptError, anymask.__version__, dir(anymask)").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", ["Prompt", "Masks", "read_image"])
def test_torch_is_loaded_only_when_a_model_is_asked_for(name):
    loaded = loaded_after(f"import anymask; anymask.{name}")
    assert loaded.isdisjoint({"torch", "matplotlib", "skimage", "lightning_fabric", "transformers"})


def test_using_a_model_loads_no_training_library():
    loaded = loaded_after("import anymask; anymask.load_model, anymask.Predictor, anymask.encode")
    assert "torch" in loaded
    assert loaded.isdisjoint({"matplotlib", "skimage", "lightning_fabric", "transformers"})


@pytest.mark.parametrize("name", anymask.__all__)
def test_every_public_name_is_there(name):
    thing = getattr(anymask, name)
    assert thing is getattr(anymask, name)
    assert name in dir(anymask)
    if not name.startswith("__"):
        assert thing.__doc__
        assert thing.__module__.startswith("anymask.")


def test_public_names_are_sorted_and_an_unknown_one_is_an_error():
    assert sorted(anymask.__all__) == anymask.__all__
    with pytest.raises(AttributeError, match="'Sam'"):
        anymask.Sam  # noqa: B018


def test_every_error_is_an_anymask_error():
    errors = [getattr(anymask, name) for name in anymask.__all__ if name.endswith("Error")]
    assert len(errors) == 7
    assert all(issubclass(error, anymask.AnymaskError) for error in errors)
