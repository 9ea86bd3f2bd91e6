"""Objects in an S3-compatible bucket: one client for AWS S3, MinIO, R2 and the embedded server.

`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION` and `AWS_ENDPOINT_URL` decide where; when
none of them is set, the embedded server that `seqline` starts is used.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from mypy_boto3_s3 import S3Client


LOST = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "404"}
"""How S3 servers say that a condition did not hold (AWS: NoSuchKey for If-Match on nothing)."""


ABSENT = {"NoSuchKey", "404", "NoSuchBucket"}
PARTS_BYTES = 8 << 20
"""From so many bytes on boto3 sends a file in parts."""
ONE_PUT_BYTES = 64_000_000
"""Larger files go up in parts: their etag is no plain MD5, and no condition holds them."""


class StorageError(RuntimeError):
    """The storage cannot be used as configured; the message says what to change."""


class ObjectChangedError(StorageError):
    """A conditional write lost: somebody else wrote the object first."""


@dataclass(frozen=True)
class StorageConfig:
    """Where the bucket is and how to log in; `repr` never shows the secret."""

    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    endpoint: str | None = None
    session_token: str | None = None

    def __repr__(self) -> str:
        return f"StorageConfig(bucket={self.bucket!r}, endpoint={self.endpoint or 'AWS S3'!r})"

    @classmethod
    def from_environment(cls, bucket: str) -> StorageConfig:
        """Read the `AWS_*` variables.

        Raises StorageError when only one half of the credentials is set, or nothing is.
        """
        key = os.environ.get("AWS_ACCESS_KEY_ID", "")
        secret = os.environ.get("AWS_SECRET_ACCESS_KEY", "")
        if not key or not secret:
            missing = "AWS_ACCESS_KEY_ID" if not key else "AWS_SECRET_ACCESS_KEY"
            raise StorageError(
                f"{missing} is not set: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and "
                "AWS_ENDPOINT_URL for anything but AWS S3), or unset all AWS_* variables to use "
                "the embedded server."
            )
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
        return cls(bucket, key, secret, region, endpoint, os.environ.get("AWS_SESSION_TOKEN"))


@dataclass(frozen=True)
class ObjectInfo:
    """One listed object: key, etag (without quotes), bytes, last modification (UTC)."""

    key: str
    etag: str
    size: int
    modified_at: datetime


class ObjectStore:
    """Read, write and list the objects of one bucket."""

    def __init__(self, config: StorageConfig) -> None:
        self.config = config
        self.bucket = config.bucket

    @cached_property
    def client(self) -> S3Client:
        """The boto3 client: path-style addresses, two quick attempts."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.config.endpoint,
            aws_access_key_id=self.config.access_key,
            aws_secret_access_key=self.config.secret_key,
            aws_session_token=self.config.session_token,
            region_name=self.config.region,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"max_attempts": 2, "mode": "standard"},
                connect_timeout=3,
                read_timeout=60,
                max_pool_connections=32,
            ),
        )

    @property
    def options(self) -> dict[str, str]:
        """Storage options for Polars and delta-rs."""
        options = {
            "aws_access_key_id": self.config.access_key,
            "aws_secret_access_key": self.config.secret_key,
            "aws_region": self.config.region,
            "aws_conditional_put": "etag",
        }
        if self.config.session_token:
            options["aws_session_token"] = self.config.session_token
        if self.config.endpoint:
            options["aws_endpoint_url"] = self.config.endpoint
            options["aws_allow_http"] = "true"
        return options

    def uri(self, key: str) -> str:
        """Return the s3:// address of a key."""
        return f"s3://{self.bucket}/{key}"

    def check(self, *, create: bool = False) -> None:
        """Prove that the bucket can be reached; with `create`, make it when it is missing.

        Raises StorageError with one sentence: unreachable, refused, or no such bucket.
        """
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        where = self.config.endpoint or f"AWS S3 ({self.config.region})"
        try:
            try:
                self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
            except ClientError as error:
                if not (create and _code(error) in ("NoSuchBucket", "404")):
                    raise
                self.client.create_bucket(Bucket=self.bucket)
        except ClientError as error:
            if _code(error) in ("NoSuchBucket", "404"):
                message = (
                    f"There is no bucket '{self.bucket}' at {where}: create it, or set "
                    "SEQLINE_BUCKET to the one you mean."
                )
            elif error.response["ResponseMetadata"]["HTTPStatusCode"] not in (400, 401, 403):
                message = (
                    f"{where} cannot serve bucket '{self.bucket}' ({_code(error)}): check "
                    "AWS_ENDPOINT_URL and AWS_REGION, and the log of that server."
                )
            else:
                message = (
                    f"{where} refused the credentials for bucket '{self.bucket}' "
                    f"({_code(error)}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the "
                    "rights of that key."
                )
            raise StorageError(message) from error
        except (ParamValidationError, ValueError) as error:  # ValueError: no URL
            raise StorageError(
                f"'{self.bucket}' at {where} is no address of a bucket: write AWS_ENDPOINT_URL "
                "like http://127.0.0.1:9000, SEQLINE_BUCKET in lower case letters, digits and '-'."
            ) from error
        except BotoCoreError as error:
            raise StorageError(
                f"The storage at {where} does not answer: check AWS_ENDPOINT_URL and that the "
                "server runs (`seqline storage start` starts the embedded one)."
            ) from error

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects below `prefix` in key order, page by page, after `start_after`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix, StartAfter=start_after
        )
        for page in pages:
            for entry in page.get("Contents", []):
                yield ObjectInfo(
                    entry["Key"], entry["ETag"].strip('"'), entry["Size"], entry["LastModified"]
                )

    def get(self, key: str) -> bytes:
        """Return the bytes of an object; KeyError when there is none."""
        return self.get_with_etag(key)[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return bytes and etag of an object; KeyError when there is none."""
        with _must_be_there(key):
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
        return answer["Body"].read(), answer["ETag"].strip('"')

    def get_to_file(self, key: str, path: Path, *, etag: str) -> bool:
        """Copy an object to a file; False when it is not there any more, or has another etag."""
        try:
            with _must_be_there(key):
                answer = self.client.get_object(Bucket=self.bucket, Key=key)
        except KeyError:
            return False
        if answer["ETag"].strip('"') != etag:
            answer["Body"].close()
            return False
        with path.open("wb") as file:
            for chunk in answer["Body"].iter_chunks(1 << 20):
                file.write(chunk)
        return True

    def put(
        self,
        key: str,
        body: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """Write an object, perhaps with metadata of its own, and return its etag.

        `if_match` writes only over that etag, `if_absent` only where nothing is; both raise
        ObjectChangedError when they lose.
        """
        from botocore.exceptions import ClientError

        condition: dict[str, Any] = {}
        if if_match is not None:
            condition["IfMatch"] = if_match
        if if_absent:
            condition["IfNoneMatch"] = "*"
        try:
            answer = self.client.put_object(
                Bucket=self.bucket, Key=key, Body=body, Metadata=metadata or {}, **condition
            )
        except ClientError as error:
            if condition and _code(error) in LOST:
                raise ObjectChangedError(
                    f"{self.uri(key)} was changed by another writer."
                ) from error
            raise
        return answer["ETag"].strip('"')

    def put_file(self, key: str, path: Path, metadata: dict[str, str] | None = None) -> int:
        """Write a file, in parts when it is large, perhaps with metadata; return its bytes."""
        size = path.stat().st_size
        if size < PARTS_BYTES:
            self.put(key, path.read_bytes(), metadata=metadata)
        else:  # with threads of its own for each file
            extra = {"Metadata": metadata or {}}
            self.client.upload_file(str(path), self.bucket, key, ExtraArgs=extra)
        return size

    def metadata(self, key: str) -> dict[str, str]:
        """Return the metadata that was written with an object; KeyError when there is none."""
        with _must_be_there(key):
            return self.client.head_object(Bucket=self.bucket, Key=key)["Metadata"]

    def upload(self, folder: Path, prefix: str) -> int:
        """Copy every file below `folder` under `prefix`; return the bytes written."""
        return sum(
            self.put_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        )

    def download(self, prefix: str, folder: Path) -> Path:
        """Copy every object below `prefix` into `folder`; KeyError when there is none."""
        keys = [info.key for info in self.list(f"{prefix}/")]
        if not keys:
            raise KeyError(prefix)
        for key in keys:
            path = folder / key[len(prefix) + 1 :]
            path.parent.mkdir(parents=True, exist_ok=True)
            self.client.download_file(self.bucket, key, str(path))
        return folder

    def exists(self, key: str) -> bool:
        """Tell whether the object is there."""
        first = next(self.list(key), None)  # the shortest key with this prefix comes first
        return first is not None and first.key == key

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object below `prefix`; return how many."""
        return self.delete(info.key for info in self.list(prefix))

    def delete(self, keys: Iterable[str]) -> int:
        """Delete objects; return how many. One that is not there is no error."""
        keys = list(keys)
        for start in range(0, len(keys), 1000):
            self.client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": key} for key in keys[start : start + 1000]]},
            )
        return len(keys)


@contextmanager
def _must_be_there(key: str) -> Iterator[None]:
    """Say KeyError where the server says that there is no such object."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if _code(error) in ABSENT:
            raise KeyError(key) from error
        raise


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
