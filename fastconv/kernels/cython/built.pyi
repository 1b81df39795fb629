KERNELS: tuple[str, ...]
LEVELS: tuple[str, ...]
COMPILER: str
FLAGS: str
