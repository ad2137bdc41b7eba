"""tent_metadata: the directory of nodes, segments and cached pages, on Redis or an embedded server.

    directory = open_directory(config.directory, cluster_id="default")
    records, generation = directory.lookup(namespace, digests)

What it keeps are hints: memory is the truth, and a directory that is gone makes misses, never errors. See
docs/directory.md for keys, record life, access lists and the forms of ``directory.url``.
"""

from tent_metadata.directory import Directory, DirectorySettings, open_directory
from tent_metadata.embedded import embedded_secret, plain_url
from tent_metadata.url import redacted

__all__ = ["Directory", "DirectorySettings", "embedded_secret", "open_directory", "plain_url", "redacted"]
