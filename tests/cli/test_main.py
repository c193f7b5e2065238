"""Command `keras-vit`, with and without its optional libraries."""

import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from keras_vit.cli import COMMANDS, cpu, huge_pages, interrupts, main, matrix_products
from keras_vit.cli.extras import install_command
from keras_vit.cli.quiet_start import quiet_start

pytestmark = pytest.mark.any_backend
ROOT = pathlib.Path(__file__).parents[2]
# Keras raises an error when it is imported with this backend.
WITHOUT_KERAS = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "none"}


def keras_vit_without_keras(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        env=WITHOUT_KERAS,
        capture_output=True,
        text=True,
    )


def test_the_list_of_commands_needs_no_keras():
    process = keras_vit_without_keras("-m", "keras_vit", "--help")
    assert process.returncode == 0, process.stderr
    for name, about in COMMANDS.items():
        assert f"  {name:10}  {about}\n" in process.stdout


def test_the_console_script_needs_no_keras():
    program = "import sys; sys.argv = ['/usr/bin/keras-vit', '--version']; "
    program += "from keras_vit.cli import main; main()"
    process = keras_vit_without_keras("-c", program)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("keras_vit 0.")


# Parses the arguments of all commands in one process.
PARSE = """
import sys
sys.argv = ["/usr/bin/keras-vit"]
from keras_vit.cli import COMMANDS, main
libraries = {"jax", "keras", "numpy", "tensorflow", "torch"}
for name in COMMANDS:
    for word in ("--help", "--nonsense"):
        try:
            main([name, word])
        except SystemExit as stop:
            loaded = sorted(libraries & sys.modules.keys())
            print(f"{name} {word}: {stop.code} {loaded}", file=sys.stderr)
"""


def test_arguments_are_parsed_without_the_libraries():
    process = keras_vit_without_keras("-c", PARSE)
    assert process.returncode == 0, process.stderr
    for name in COMMANDS:
        assert f"usage: keras-vit {name} " in process.stdout
        assert f"{name} --help: 0 []\n" in process.stderr
        assert f"{name} --nonsense: 2 []\n" in process.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module(name):
    assert importlib.util.find_spec(f"keras_vit.cli.{name.replace('-', '_')}")


@pytest.mark.parametrize(("level", "noise"), [(None, ""), ("0", "noise\n")])
def test_libraries_that_write_while_they_are_imported(level, noise, monkeypatch, capfd):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    with quiet_start():
        os.write(2, b"noise\n")
        print("warning", file=sys.stderr)
    os.write(2, b"end\n")
    assert capfd.readouterr().err == f"{noise}warning\nend\n"


def test_a_failed_import_shows_what_was_written(monkeypatch, capfd):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)

    @quiet_start()
    def fail():
        os.write(2, b"no CUDA\n")
        raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfd.readouterr().err == "no CUDA\n"


@pytest.mark.parametrize("given", [None, "0"])
def test_tensorflow_computes_with_onednn_unless_told_otherwise(given, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(interrupts, "install", lambda: None)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    main(["list", "vit_b16"])
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == (given or "1")


@pytest.mark.parametrize(
    ("backend", "jaxlib", "tensorflow", "features", "chosen"),
    [
        ("jax", "0.10.2", "2.21.0", "avx avx2", True),
        ("jax", "0.10.2", None, "avx avx2", True),
        ("jax", "0.10.3", "2.21.0", "avx avx2", False),
        ("jax", "0.10.2", "2.22.0", "avx avx2", False),
        ("jax", "0.10.2", "2.21.0", "avx avx2 avx512f", False),
        ("tensorflow", "0.10.2", "2.21.0", "avx avx2", False),
        ("jax", None, "2.21.0", "avx avx2", False),
    ],
)
def test_jax_multiplies_without_ynnpack_where_it_is_faster(
    backend, jaxlib, tensorflow, features, chosen, monkeypatch
):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    versions = {"jaxlib": jaxlib, "tensorflow": tensorflow}
    monkeypatch.setattr(matrix_products, "_version", versions.get)
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: f"flags: {features}")
    settings = matrix_products.settings(backend)
    assert settings == ({"XLA_FLAGS": matrix_products.FLAG} if chosen else {})
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    assert matrix_products.settings(backend) == {}


@pytest.mark.parametrize(
    ("backend", "features", "pages", "glibc", "chosen"),
    [
        ("jax", "avx2 avx512f", "always [madvise] never", "2.36", True),
        ("jax", "avx2", "always [madvise] never", "2.36", False),
        ("jax", "avx2 avx512f", "[always] madvise never", "2.36", False),
        ("jax", "avx2 avx512f", "always [madvise] never", "2.31", False),
        ("jax", "avx2 avx512f", "always [madvise] never", "", False),
        ("tensorflow", "avx2 avx512f", "always [madvise] never", "2.36", False),
    ],
)
def test_jax_has_huge_pages_where_it_is_faster(
    backend, features, pages, glibc, chosen, monkeypatch
):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    texts = {cpu.INFORMATION: f"flags: {features}", huge_pages._KERNEL: pages}
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: texts[path])
    libc = ("glibc", glibc) if glibc else ("", "")
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: libc)
    wanted = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if chosen else {}
    assert huge_pages.settings(backend) == wanted
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    assert huge_pages.settings(backend) == {}


def test_a_command_starts_again_with_its_words():
    program = "import os, sys; sys.argv = ['/usr/bin/keras-vit', *sys.argv[1:]]\n"
    program += "from keras_vit.cli import huge_pages\n"
    program += "if 'GLIBC_TUNABLES' not in os.environ:\n    print(os.getpid())\n"
    program += "    sys.stdout.flush()\n"
    program += "    huge_pages.restart_with({'GLIBC_TUNABLES': huge_pages.VALUE})\n"
    program += "print(os.getpid(), sys.argv[1:])"
    environment = {k: v for k, v in WITHOUT_KERAS.items() if k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", program, "a word", "--option"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert after == f"{before} ['a word', '--option']"


def test_an_unknown_command():
    process = keras_vit_without_keras("-m", "keras_vit", "train")
    assert process.returncode == 2
    assert "invalid choice: 'train' (choose from" in process.stderr


def test_a_command_without_its_library_names_the_extra():
    program = "import sys; sys.modules['orjson'] = None; "
    program += "from keras_vit.cli import main; main(['serve', 'served/vit'])"
    argv = "import sys; sys.argv = ['/usr/bin/keras-vit']; "
    process = keras_vit_without_keras("-c", argv + program)
    assert process.returncode == 1
    assert process.stderr.startswith("error: ")
    assert process.stderr.endswith("Run pip install 'keras_vit[serve]'.\n")


@pytest.mark.parametrize(
    ("error", "command"),
    [
        (ModuleNotFoundError(name="matplotlib.pyplot"), "keras_vit[train]"),
        (ModuleNotFoundError(name="onnxruntime"), "keras_vit[onnx]"),
    ],
)
def test_missing_libraries(error, command):
    assert f"pip install '{command}'" in install_command(error)


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError(name="other"), ImportError("x"), ValueError()]
)
def test_errors_that_no_extra_mends(error):
    assert install_command(error) is None


@pytest.mark.parametrize("importing", [True, False])
def test_an_interrupted_command_ends(importing, tmp_path):
    """Check Ctrl-C, even while a module is imported that swallows every exception."""
    interrupt = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    module = tmp_path / "swallows.py"
    module.write_text(f"try:\n    exec({interrupt!r})\nexcept BaseException:\n    pass")
    start = f"import sys\nsys.path.append({str(tmp_path)!r})\n"
    start += "sys.argv = ['/usr/bin/keras-vit']\n"
    start += "from keras_vit.cli import interrupts\ninterrupts.install()\n"
    body = "import swallows\n" if importing else interrupt
    done = subprocess.run(
        [sys.executable, "-c", f"{start}{body}print('continues')"],
        env=WITHOUT_KERAS,
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="Windows has no pipes")
def test_a_command_whose_output_is_no_longer_read_ends():
    program = "import sys; sys.argv = ['/usr/bin/keras-vit']\n"
    program += "from keras_vit.cli.interrupts import ends_with_its_reader\n"
    program += "with ends_with_its_reader():\n    print('line\\n' * 100_000)"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=WITHOUT_KERAS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == -signal.SIGPIPE


def run_earlier(module, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)


@pytest.mark.slow
def test_earlier_names_of_commands():
    done = run_earlier("recipes.pretrain", "--help")
    assert "usage: keras-vit pretrain" in done.stdout
    assert "`python -m recipes.pretrain` is now `keras-vit pretrain`" in done.stderr
    found = {}
    for path in (ROOT / "recipes").glob("*.py"):
        for command in re.findall(r'^    run\("(.*)"\)', path.read_text(), re.M):
            found[path.stem] = command
    later = {"convert", "list", "new-config", "report", "knn", "neighbors", "robustness"}
    later |= {"plan", "scaling"}
    assert set(found.values()) == set(COMMANDS) - later
    assert found["linear_probe"] == "probe"
