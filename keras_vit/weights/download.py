"""Download, verification and caching of published checkpoints.

This module does not use `keras.utils.get_file`, which writes under the final name while
it downloads. If the process is killed, the next call takes the incomplete file for the
whole one. `get_file` also cannot resume a download, keeps a file whose hash is wrong, and
does not lock the cache against other processes.
"""

import base64
import errno
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request

import keras

from keras_vit.weights.connection import SCHEMES, Redirects, Watchdog, make_opener
from keras_vit.weights.registry import (
    Checkpoint,
    find_checkpoint,
    published_checkpoints,
)

_CONNECTIONS = 5
# Seconds between two bytes, and for each step of the `Watchdog`.
_TIMEOUT = 60
_CHUNK = 2**20
# After the first minute, a connection is closed if its average rate falls below
# `_SLOWEST` bytes per second. No checkpoint is larger than `_LARGEST` bytes.
_SLOWEST = 1000
_LARGEST = 2**36
# A name with one of these endings is a path, not the name of a published checkpoint.
FILE_ENDINGS = (
    *(".npz", ".safetensors", ".pth", ".pt", ".bin", ".tar", ".h5", ".keras", ".json"),
    ".ckpt",
)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)


def fetch_checkpoint(name_or_path: str | os.PathLike) -> str:
    """Return the local path of a checkpoint, downloading it if necessary.

    Downloads are cached in the `keras_vit` subdirectory of the Keras directory
    (`$KERAS_HOME`, by default `~/.keras`) under the name of the checkpoint. A file gets
    its final name only once it is complete: its length matches, and so does its hash if
    the hash is known or sent by the server. If a download is interrupted, the next call
    resumes it. If several processes request the same file, one of them downloads it and
    the others wait.

    The environment variable `KERAS_VIT_MIRROR` sets the address (`https://...` or
    `http://...`) of a mirror, which replaces `https://storage.googleapis.com`,
    `https://huggingface.co` and `https://github.com`; the rest of the URL stays the same.
    `HF_ENDPOINT` sets a mirror for files from Hugging Face only.

    Args:
        name_or_path: one of the following:
            - an existing path, which is returned unchanged;
            - a name that `keras_vit.checkpoints()` lists. Rows whose `url` begins with
              `hf://` are repositories, and those with `kaggle://` presets of KerasHub;
            - `hf://organization/name[@revision]`, a repository on the Hugging Face Hub;
              `huggingface_hub` downloads and caches its configuration files and
              `*.safetensors`.

    Returns:
        Path of a file, or of a directory for repositories and presets.

    Raises:
        FileNotFoundError: if the path does not exist, or the repository has no
            `.safetensors` files.
        ValueError: if the name is unknown. The message lists similar names.
        ImportError: if `huggingface_hub` or `kagglehub` is needed and not installed.
        OSError: if the download fails because of the connection, the server, a wrong
            length or hash, or a full disk. The message says what to do.
    """
    name = os.fspath(name_or_path)
    if os.path.exists(name):
        return name
    if name.startswith("hf://"):
        return _fetch_repository(name)
    if "://" in name:
        raise ValueError(
            f"{name!r} is a URL. Download the file and pass its path, or pass one of the "
            "names of keras_vit.checkpoints(), or hf://organization/name."
        )
    if isinstance(name_or_path, os.PathLike) or (
        name not in published_checkpoints()
        and (os.path.basename(name) != name or name.endswith(FILE_ENDINGS))
    ):
        raise FileNotFoundError(
            f"No checkpoint at {name!r} (the current directory is {os.getcwd()})."
        )
    checkpoint = find_checkpoint(name)
    if checkpoint.url.startswith("hf://"):
        return _fetch_repository(checkpoint.url)
    if checkpoint.url.startswith("kaggle://"):
        return _fetch_preset(checkpoint)
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    directory = os.path.join(os.path.expanduser(home), "keras_vit")
    extension = os.path.splitext(checkpoint.url.removesuffix(".tar"))[1]
    if checkpoint.url.endswith(".tar"):
        extension += ".tar"
    path = os.path.join(directory, checkpoint.name + extension)
    if not os.path.exists(path):
        _Download(checkpoint, path).run()
    return path


def _fetch_repository(name):
    """Download a repository of the Hugging Face Hub and return its local directory."""
    repository, _, revision = name.removeprefix("hf://").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(
            f"Expected hf://organization/name or hf://organization/name@revision; "
            f"received {name!r}."
        )
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(
            f"{name} needs huggingface_hub: pip install 'keras_vit[hub]'."
        ) from None
    try:
        path = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=[
                *("config.json", "preprocessor_config.json"),
                *("processor_config.json", "open_clip_config.json"),
                *("*.safetensors", "*.safetensors.index.json"),
            ],
        )
    except Exception as error:
        if _is_gated(error):
            raise OSError(_how_to_get_access(repository)) from error
        # The errors of huggingface_hub's HTTP library differ between versions.
        raise OSError(
            f"Could not download {name} from {huggingface_hub.constants.ENDPOINT}: "
            f"{error}\nCheck the name and the revision; a private or gated repository "
            "needs `hf auth login`; HF_ENDPOINT sets a mirror. Or download config.json "
            "and the .safetensors files by other means and pass the path of their "
            "directory."
        ) from error
    if not any(file.endswith(".safetensors") for file in os.listdir(path)):
        raise FileNotFoundError(
            f"{name} has no .safetensors files. No other format is read from the Hub."
        )
    return path


def _is_gated(error):
    """Return True if an error of huggingface_hub is about a gated repository."""
    while error is not None:
        if type(error).__name__ == "GatedRepoError":
            return True
        error = error.__cause__ or error.__context__
    return False


def _how_to_get_access(repository):
    return (
        f"The repository {repository} is gated: its owner asks you to accept its "
        "license. Sign in to Hugging Face, accept the license at "
        f"https://huggingface.co/{repository}, and wait for access if the page says so. "
        "Then set HF_TOKEN to one of your access tokens "
        "(https://huggingface.co/settings/tokens), or run `hf auth login`, and try again."
    )


def _fetch_preset(checkpoint):
    """Download a preset of KerasHub from Kaggle and return its local directory."""
    try:
        import kagglehub
    except ImportError:
        raise ImportError(
            f"{checkpoint.name} is a KerasHub preset, which needs kagglehub: "
            "pip install kagglehub."
        ) from None
    handle = checkpoint.url.removeprefix("kaggle://")
    try:
        return kagglehub.model_download(handle)
    except Exception as error:
        # The errors of kagglehub's HTTP library differ between versions.
        page = "/".join(handle.split("/")[:2])
        raise OSError(
            f"Could not download {checkpoint.name} from Kaggle: {error}\nIf the model "
            "asks for consent, sign in to Kaggle and accept the license at "
            f"https://www.kaggle.com/models/{page}. Then run kagglehub.login(), or set "
            "KAGGLE_API_TOKEN, and try again. Or download the preset by other means and "
            "pass the path of its directory."
        ) from error


def _address(url):
    """Return the URL to download from: `url` itself, or its counterpart on a mirror."""
    host, path = urllib.parse.urlsplit(url)[1:3]
    variable = "KERAS_VIT_MIRROR"
    if not os.environ.get(variable) and host == "huggingface.co":
        variable = "HF_ENDPOINT"
    mirror = os.environ.get(variable)
    if not mirror:
        return url
    try:
        scheme, mirror_host = urllib.parse.urlsplit(mirror)[:2]
    except ValueError:
        scheme = mirror_host = ""
    if scheme not in SCHEMES or not mirror_host:
        raise ValueError(
            f"{variable} must be a URL that begins with https:// or http://; received "
            f"{mirror!r}. To load a checkpoint from a local disk, pass its path."
        )
    return mirror.rstrip("/") + path


def _content_length(headers):
    """Return the Content-Length in a server's headers, or None if it is missing.

    Raises:
        HTTPException: if the length is not a number, or larger than any checkpoint.
    """
    text = headers.get("Content-Length")
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,15}", text) or int(text) > _LARGEST:
        raise http.client.HTTPException(
            f"the server announces a Content-Length of {text[:40]!r}, which is not the "
            "length of a checkpoint"
        )
    return int(text)


def _sent_hash(headers, linked_etag):
    """Return the algorithm and hex digest of the file's hash that a server sends.

    Args:
        headers: headers of the response.
        linked_etag: str, Hugging Face's hash from the redirect, or "".

    Returns:
        Tuple such as `("sha256", "21d4...")`, or None if the server sends no hash.
    """
    etag = (linked_etag or headers.get("X-Linked-ETag", "")).strip('"')
    if re.fullmatch("[0-9a-f]{64}", etag):
        return "sha256", etag
    md5 = re.search(r"md5=([\w+/]+=*)", ",".join(headers.get_all("x-goog-hash", [])))
    if md5:
        return "md5", base64.b64decode(md5[1]).hex()
    return None


def _check_progress(seconds, start, end):
    """Raise an `HTTPException` if a server sends too slowly or too much.

    Args:
        seconds: float, time since the response began.
        start: int, size of the file when the response began.
        end: int, present size of the file.
    """
    if end > _LARGEST:
        raise http.client.HTTPException("the server sends more than a checkpoint has")
    if seconds > _TIMEOUT and end - start < _SLOWEST * seconds:
        raise http.client.HTTPException(
            f"the server is too slow: it sent {end - start} bytes in {seconds:.0f} "
            "seconds"
        )


class _Download:
    """Download of one file into the cache.

    An incomplete file is named `path` + `.part`. The file `path` + `.version` beside it
    holds the server's ETag or modification date of the version being downloaded.
    """

    def __init__(self, checkpoint: Checkpoint, path: str):
        self.checkpoint = checkpoint
        self.path = path
        self.part = path + ".part"
        self.version = path + ".version"
        self.url = _address(checkpoint.url)
        self.verbose = keras.config.is_interactive_logging_enabled()
        self.total: int | None = None
        self.hash: tuple[str, str] | None = None

    def _error(self, reason):
        return OSError(
            f"Could not download {self.checkpoint.name} from {self.url}: {reason}.\n"
            "Try again later; or download that URL by other means and save the file as "
            f"{self.path}; or set KERAS_VIT_MIRROR to the URL of a mirror that has the "
            "same paths."
        )

    def _cannot_write(self, reason):
        return OSError(
            f"Cannot write {self.path}: {reason}. Make room or change the permissions, "
            "or set KERAS_HOME to another directory, which Keras then uses for all files."
        )

    def run(self):
        import filelock

        lock = filelock.FileLock(self.path + ".lock")
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            try:
                held = lock.acquire(blocking=False)
            except filelock.Timeout:
                self._say(f"Waiting for another process to download {self.path} ...")
                held = lock.acquire()
        except OSError as error:
            raise self._cannot_write(error) from error
        with held:
            # Another process may have completed the download in the meantime.
            if not os.path.exists(self.path):
                self._receive()
                self._verify()
                os.replace(self.part, self.path)
                self._forget()

    def _say(self, message):
        if self.verbose:
            print(message)

    def _forget(self):
        for file in (self.part, self.version):
            if os.path.exists(file):
                os.remove(file)

    def _size(self):
        return os.path.getsize(self.part) if os.path.exists(self.part) else 0

    def _receive(self):
        """Download the file into `part`, reconnecting when a connection breaks."""
        self._say(f"Downloading {self.checkpoint.name} from {self.url}")
        for _ in range(_CONNECTIONS):
            before = self._size()
            try:
                self._receive_some()
            except urllib.error.HTTPError as error:
                if (
                    error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                    and before
                ):
                    self._forget()
                    continue
                if self._asks_for_access(error):
                    repository = "/".join(self.checkpoint.url.split("/")[3:5])
                    raise OSError(
                        f"Could not download {self.checkpoint.name}: "
                        f"{_how_to_get_access(repository)} Pass the name "
                        f"hf://{repository}, which huggingface_hub downloads with the "
                        "token."
                    ) from error
                reason = f"the server answered {error.code} {error.reason}"
                raise self._error(reason) from error
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in _DISK:
                    raise self._cannot_write(error) from error
                reason = str(getattr(error, "reason", error))
            else:
                if self.total in (None, self._size()):
                    return
                reason = "the connection ended early"
            if self._size() <= before:
                break
        raise self._error(
            f"{reason} ({self._size()} of {self.total or 'unknown'} bytes were received "
            "and are kept)"
        )

    def _asks_for_access(self, error):
        """Return True if an HTTP error is about a gated repository."""
        return error.headers.get("X-Error-Code") == "GatedRepo" or (
            self.checkpoint.gated and error.code in (401, 403)
        )

    def _receive_some(self):
        """Append to `part` until the file is complete or the connection ends."""
        with Watchdog(_TIMEOUT) as watchdog:
            try:
                self._receive_watched(watchdog)
            except (OSError, http.client.HTTPException):
                # If the watchdog closed the connection, raise its error, which names
                # the cause.
                watchdog.step()
                raise

    def _receive_watched(self, watchdog):
        # With a compressed transfer encoding, Content-Length would not be the length of
        # the file.
        headers = {"User-Agent": "keras_vit", "Accept-Encoding": "identity"}
        start = self._size() if os.path.exists(self.version) else 0
        if start:
            with open(self.version) as file:
                headers |= {"Range": f"bytes={start}-", "If-Range": file.read()}
        redirects = Redirects(self.url)
        opener = make_opener(redirects, watchdog)
        request = urllib.request.Request(self.url, headers=headers)
        with opener.open(request, timeout=_TIMEOUT) as response:
            watchdog.step()
            if response.headers.get_content_type() == "text/html":
                # The login page of a captive portal, for example in a hotel.
                raise http.client.HTTPException(
                    "the server sent a web page instead of the file"
                )
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                start = 0
                self._forget()
            elif not response.headers.get("Content-Range", "").startswith(
                f"bytes {start}-"
            ):
                self._forget()
                raise http.client.HTTPException(
                    "the server sent a part of the file that was not requested"
                )
            length = _content_length(response.headers)
            self.total = None if length is None else start + length
            self.hash = _sent_hash(response.headers, redirects.etag)
            if self.checkpoint.sha256:
                self.hash = "sha256", self.checkpoint.sha256
            if not (self.total or self.hash):
                raise http.client.HTTPException(
                    "the server states neither the file's length nor its hash"
                )
            self._check_room(length or 0)
            etag = response.headers.get("ETag", "")
            version = etag if etag.startswith('"') else response.headers["Last-Modified"]
            if version:
                with open(self.version, "w") as file:
                    file.write(version)
            progress = keras.utils.Progbar(
                self.total, verbose=int(self.verbose), interval=0.5, unit_name="byte"
            )
            begin = time.monotonic()
            with open(self.part, "ab") as file:
                # `read1` returns whatever has arrived. `read` would wait for a whole
                # chunk, and the loop would not notice a very slow server.
                while chunk := response.read1(_CHUNK):
                    watchdog.step()
                    file.write(chunk)
                    progress.update(file.tell())
                    _check_progress(time.monotonic() - begin, start, file.tell())
                watchdog.step()
                file.flush()
                # The data must be on disk before the file gets its final name.
                os.fsync(file.fileno())

    def _check_room(self, needed):
        free = shutil.disk_usage(os.path.dirname(self.path)).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed} bytes needed, {free} bytes free")

    def _verify(self):
        if self.hash is None:
            return
        algorithm, expected = self.hash
        with open(self.part, "rb") as file:
            digest = hashlib.file_digest(
                file, lambda: hashlib.new(algorithm, usedforsecurity=False)
            )
        if digest.hexdigest() != expected:
            self._forget()
            raise self._error(
                f"its {algorithm} is {digest.hexdigest()}, not {expected}; the file was "
                "deleted"
            )
