"""What ``tent doctor`` looks at. Each module has ``check(config) -> list[Finding]`` for one area."""
