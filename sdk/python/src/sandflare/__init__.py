"""Sandboxes for AI agents: a microVM of its own for each.

    from sandflare import Sandbox

    with Sandbox.create() as sandbox:
        print(sandbox.run("uname -a").stdout)

:class:`AsyncSandbox` and :class:`AsyncClient` have the same methods, to be awaited.
"""

from sandflare import errors
from sandflare._async.client import AsyncClient
from sandflare._async.database import AsyncDatabase
from sandflare._async.files import AsyncFiles
from sandflare._async.process import AsyncEvents, AsyncProcess
from sandflare._async.sandbox import AsyncSandbox
from sandflare._async.secret import AsyncSecret
from sandflare._sync.client import Client
from sandflare._sync.database import Database
from sandflare._sync.files import Files
from sandflare._sync.process import Events, Process
from sandflare._sync.sandbox import Sandbox
from sandflare._sync.secret import Secret
from sandflare._version import __version__
from sandflare.errors import CommandFailed, NotFound, SandflareError, SqlFailed
from sandflare.models import (
    CreatedKey,
    DatabaseCache,
    DatabaseConnections,
    DatabaseInfo,
    DatabaseSnapshot,
    DatabaseStats,
    DatabaseTransactions,
    Event,
    FileEntry,
    FileEvent,
    Flow,
    Health,
    Key,
    LocalCopy,
    Metrics,
    Policy,
    Port,
    ProcessInfo,
    Project,
    Result,
    Rows,
    SandboxInfo,
    SecretInfo,
    SlowQuery,
    Snapshot,
    Template,
    Usage,
    Wired,
)

__all__ = [
    "AsyncClient",
    "AsyncDatabase",
    "AsyncEvents",
    "AsyncFiles",
    "AsyncProcess",
    "AsyncSandbox",
    "AsyncSecret",
    "Client",
    "CommandFailed",
    "CreatedKey",
    "Database",
    "DatabaseCache",
    "DatabaseConnections",
    "DatabaseInfo",
    "DatabaseSnapshot",
    "DatabaseStats",
    "DatabaseTransactions",
    "Event",
    "Events",
    "FileEntry",
    "FileEvent",
    "Files",
    "Flow",
    "Health",
    "Key",
    "LocalCopy",
    "Metrics",
    "NotFound",
    "Policy",
    "Port",
    "Process",
    "ProcessInfo",
    "Project",
    "Result",
    "Rows",
    "Sandbox",
    "SandboxInfo",
    "SandflareError",
    "Secret",
    "SecretInfo",
    "SlowQuery",
    "Snapshot",
    "SqlFailed",
    "Template",
    "Usage",
    "Wired",
    "__version__",
    "errors",
]
