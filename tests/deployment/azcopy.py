"""Stands in for `azcopy copy SOURCE DESTINATION --recursive`, from container to container: no package index has AzCopy.

As documented (https://learn.microsoft.com/azure/storage/common/storage-use-azcopy-blobs-copy), it keeps names, types
and metadata, and creates a container that is missing. Staged blocks that were never committed are not copied.

The accounts' connection strings come in the environment, by the name that the address begins with.
"""

from __future__ import annotations

import os
import sys
from urllib.parse import urlsplit

from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobType, ContainerClient

API_VERSION = "2025-11-05"  # the newest that Azurite takes


def container(url: str) -> ContainerClient:
    address = urlsplit(url)
    account = address.netloc.removesuffix(".blob.core.windows.net")
    name = address.path.strip("/")
    return ContainerClient.from_connection_string(os.environ[account], name, api_version=API_VERSION)


def main(command: str, source_url: str, destination_url: str, recursive: str) -> None:
    assert (command, recursive) == ("copy", "--recursive"), "not imitated"
    with container(source_url) as source, container(destination_url) as destination:
        try:
            destination.create_container()
        except ResourceExistsError:
            pass
        for blob in source.list_blobs(include=["metadata"]):
            body = source.download_blob(blob.name).readall()
            target = destination.get_blob_client(blob.name)
            if blob.blob_type == BlobType.APPENDBLOB:
                target.create_append_blob(metadata=blob.metadata)
                for start in range(0, len(body), 4 * 1024 * 1024):
                    target.append_block(body[start : start + 4 * 1024 * 1024])
            else:
                target.upload_blob(body, metadata=blob.metadata, overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
