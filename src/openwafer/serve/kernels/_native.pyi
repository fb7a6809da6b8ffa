"""The native kernels, as Python sees them; `native/module.cpp` binds them. Tensors are addresses of their first number."""

def levels() -> list[str]: ...
def threads() -> int: ...
def set_threads(count: int) -> None: ...
def attention(
    level: int,
    type: int,
    heads: int,
    head_dim: int,
    heads_kv: int,
    window: int,
    query: int,
    keys: int,
    values: int,
    tables: int,
    table_width: int,
    tokens: int,
    token_count: int,
    out: int,
    /,
) -> None: ...
def want_large_pages(address: int, nbytes: int, /) -> None: ...
def read_probe(address: int, nbytes: int, /) -> float: ...

class Matrix:
    def __init__(
        self,
        level: int,
        weight_type: int,
        type: int,
        rows: int,
        columns: int,
        weight: int,
        bias: int,
        scale: int,
        sum: int,
        /,
    ) -> None: ...
    def multiply(self, x: int, tokens: int, y: int, wide: bool, /) -> None: ...

def choose(
    level: int, count: int, rows: list[tuple[int, bytes | None, float, float, float, int, int, int]], /
) -> list[tuple[int, float, float, list[tuple[int, float]]]]: ...
def draw_again(level: int, weights: int, count: int, limit: float, draw: float, /) -> int: ...
def swiglu(level: int, type: int, tokens: int, width: int, gate_up: int, out: int, /) -> None: ...

class Layer:
    def __init__(
        self,
        level: int,
        type: int,
        matrices: list[Matrix],
        norms: list[int],
        epsilon: float,
        heads: int,
        heads_kv: int,
        head_dim: int,
        window: int,
        /,
    ) -> None: ...
    def run(
        self,
        x: int,
        tokens: int,
        places: int,
        tables: int,
        table_width: int,
        cos: int,
        sin: int,
        keys: int,
        values: int,
        out: int,
        /,
    ) -> None: ...
