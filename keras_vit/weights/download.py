"""A checkpoint's file from its name: the cache, the download and its verification.

Not `keras.utils.get_file`: that one writes under the final name while it downloads, and
a killed process leaves half a file there, which the next call takes for the whole; it
does not resume, keeps a file whose hash was wrong, and knows no lock.
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
from keras_vit.weights.registry import Checkpoint, find_checkpoint

_CONNECTIONS = 5
_TIMEOUT = 60  # Seconds without a byte, and for all headers.
_CHUNK = 2**20
# A connection that is slower than this, in bytes per second, after the first minute is
# given up, as is a file larger than any checkpoint.
_SLOWEST = 1000
_LARGEST = 2**36
# Of files: such a name that is not there is no name of a published checkpoint.
FILE_ENDINGS = (
    *(".npz", ".safetensors", ".pth", ".pt", ".bin", ".tar", ".h5", ".keras", ".json"),
    ".ckpt",
)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)


def fetch_checkpoint(name_or_path: str | os.PathLike) -> str:
    """The path of a checkpoint, which is downloaded where it has to be.

    Downloads are kept in `keras_vit/` of Keras's directory (`$KERAS_HOME`, else
    `~/.keras`), under the checkpoint's name. A file gets that name when it is whole: its
    length, and its hash where it is listed or sent by the server, are right. What an
    interrupted download left is resumed. Several processes may ask for the same file:
    one downloads.

    `$KERAS_VIT_MIRROR`, the address (`https://...` or `http://...`) of a mirror, takes
    the place of `https://storage.googleapis.com`, `https://huggingface.co` and
    `https://github.com`; the rest of the path stays. For Hugging Face's files alone,
    `$HF_ENDPOINT` does.

    Args:
        name_or_path: a path that exists, which is returned as it is; or a name that
            `keras_vit.checkpoints()` lists; or `hf://organisation/name[@revision]`: the
            configuration and `*.safetensors` of a repository of the Hugging Face Hub, as
            `huggingface_hub` downloads and caches them.

    Returns:
        Path of a file, or for `hf://` of a directory.

    Raises:
        FileNotFoundError: a path that does not exist; a repository without safetensors.
        ValueError: a name that is not known; the message has the nearest ones.
        ImportError: `hf://` without `huggingface_hub`.
        OSError: the download failed: no connection, an error of the server, a file that
            is not the one expected, no room. The message says how to go on.
    """
    name = os.fspath(name_or_path)
    if os.path.exists(name):
        return name
    if name.startswith("hf://"):
        return _fetch_repository(name)
    if "://" in name:
        raise ValueError(
            f"{name!r} is an address: download it, and pass the file's path; or pass one "
            "of the names of keras_vit.checkpoints(), or hf://organisation/name."
        )
    if (
        isinstance(name_or_path, os.PathLike)
        or os.path.basename(name) != name
        or name.endswith(FILE_ENDINGS)
    ):
        raise FileNotFoundError(
            f"No checkpoint at {name!r} (the current directory is {os.getcwd()})."
        )
    checkpoint = find_checkpoint(name)
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    directory = os.path.join(os.path.expanduser(home), "keras_vit")
    extension = os.path.splitext(checkpoint.url.removesuffix(".tar"))[1]
    if checkpoint.url.endswith(".tar"):
        extension += ".tar"
    path = os.path.join(directory, name + extension)
    if not os.path.exists(path):
        _Download(checkpoint, path).run()
    return path


def _fetch_repository(name):
    repository, _, revision = name.removeprefix("hf://").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(
            f"Expected hf://organisation/name or hf://organisation/name@revision; "
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
                *("*.safetensors", "*.safetensors.index.json"),
            ],
        )
    except Exception as error:
        # Its HTTP library has errors of its own, another one in each version.
        raise OSError(
            f"Could not download {name} from {huggingface_hub.constants.ENDPOINT}: "
            f"{error}\nCheck the name and the revision; a private or gated repository "
            "needs `hf auth login`; HF_ENDPOINT sets a mirror. Or download config.json "
            "and the .safetensors by hand, and pass the path of their directory."
        ) from error
    if not any(file.endswith(".safetensors") for file in os.listdir(path)):
        raise FileNotFoundError(
            f"{name} has no .safetensors: only these are read, not PyTorch's pickles."
        )
    return path


def _address(url):
    """Where to download from: the URL, or its place in a mirror."""
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
            f"{variable} must be an address that begins with https:// or http://; "
            f"received {mirror!r}. A checkpoint on this disk is loaded by its path."
        )
    return mirror.rstrip("/") + path


def _content_length(headers):
    """Return the length that a server announces, or None.

    Raises:
        HTTPException: it is no number, or larger than any checkpoint.
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
    """The hash of the whole file that a server sends: its algorithm and hex digits."""
    etag = (linked_etag or headers.get("X-Linked-ETag", "")).strip('"')
    if re.fullmatch("[0-9a-f]{64}", etag):
        return "sha256", etag
    md5 = re.search(r"md5=([\w+/]+=*)", ",".join(headers.get_all("x-goog-hash", [])))
    if md5:
        return "md5", base64.b64decode(md5[1]).hex()
    return None


def _check_progress(seconds, start, end):
    """Raise an `HTTPException` where a server sends too slowly or without end."""
    if end > _LARGEST:
        raise http.client.HTTPException("the server sends more than any checkpoint has")
    if seconds > _TIMEOUT and end - start < _SLOWEST * seconds:
        raise http.client.HTTPException(
            f"the server sent {end - start} bytes in {seconds:.0f} seconds, too slowly"
        )


class _Download:
    """One file on its way into the cache.

    Until it is whole it lies under `path` + `.part`, beside the server's mark of the
    version that it is a part of (`.version`).
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
            "Try again later. Or download that address by other means and put the file "
            f"at {self.path}. Or set KERAS_VIT_MIRROR to the address of a mirror, which "
            "has the same path below it."
        )

    def _cannot_write(self, reason):
        return OSError(
            f"Cannot write {self.path}: {reason}. Make room or change the permissions, "
            "or set KERAS_HOME to another directory for all that Keras downloads."
        )

    def run(self):
        import filelock

        lock = filelock.FileLock(self.path + ".lock")
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            try:
                held = lock.acquire(blocking=False)
            except filelock.Timeout:
                self._say(f"Waiting for another process that downloads {self.path} ...")
                held = lock.acquire()
        except OSError as error:
            raise self._cannot_write(error) from error
        with held:
            # Another process may have been faster.
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
        """Downloads into `part`, over several connections where they break."""
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
            f"{reason} ({self._size()} of {self.total or 'unknown'} bytes are there, and "
            "are kept)"
        )

    def _receive_some(self):
        """Downloads into `part`, from where it ends, until the connection does."""
        with Watchdog(_TIMEOUT) as watchdog:
            try:
                self._receive_watched(watchdog)
            except (OSError, http.client.HTTPException):
                watchdog.step()  # If it ended the connection, its error says why.
                raise

    def _receive_watched(self, watchdog):
        # Compressed on its way, the file would have another length.
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
                # What a hotel's network answers to everything.
                raise http.client.HTTPException("a web page came instead of the file")
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                start = 0
                self._forget()
            elif not response.headers.get("Content-Range", "").startswith(
                f"bytes {start}-"
            ):
                self._forget()
                raise http.client.HTTPException("the server sent another part of it")
            length = _content_length(response.headers)
            self.total = None if length is None else start + length
            self.hash = _sent_hash(response.headers, redirects.etag)
            if self.checkpoint.sha256:
                self.hash = "sha256", self.checkpoint.sha256
            if not (self.total or self.hash):
                raise http.client.HTTPException(
                    "the server tells neither the file's length nor its hash"
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
                # One piece at a time, so that a server that sends a byte now and then
                # is noticed.
                while chunk := response.read1(_CHUNK):
                    watchdog.step()
                    file.write(chunk)
                    progress.update(file.tell())
                    _check_progress(time.monotonic() - begin, start, file.tell())
                watchdog.step()
                file.flush()
                # The rename must not reach the disk before the bytes do.
                os.fsync(file.fileno())

    def _check_room(self, needed):
        free = shutil.disk_usage(os.path.dirname(self.path)).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed} bytes to come, {free} bytes free")

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
                f"its {algorithm} is {digest.hexdigest()}, not {expected}; what arrived "
                "was deleted"
            )
