"""Configuration: one typed schema, read from a file, a dict and the environment. See docs/config.md."""

from tent_core.config.load import load_config, variable_name
from tent_core.config.ranks import for_rank
from tent_core.config.resolve import has_configured_secret, resolve_secret, user_key_path
from tent_core.config.schema import (
    ClusterConfig,
    Config,
    DirectoryConfig,
    Effective,
    EngineConfig,
    LogConfig,
    NodeConfig,
    RailsConfig,
    Setting,
    ShmConfig,
    StoreConfig,
    TcpConfig,
    hide_password,
    settings,
    show_value,
)
from tent_core.config.values import format_size, parse_size

__all__ = [
    "ClusterConfig",
    "Config",
    "DirectoryConfig",
    "Effective",
    "EngineConfig",
    "LogConfig",
    "NodeConfig",
    "RailsConfig",
    "Setting",
    "ShmConfig",
    "StoreConfig",
    "TcpConfig",
    "for_rank",
    "format_size",
    "has_configured_secret",
    "hide_password",
    "load_config",
    "parse_size",
    "resolve_secret",
    "settings",
    "show_value",
    "user_key_path",
    "variable_name",
]
