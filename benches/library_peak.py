#!/usr/bin/env python3
"""What the device's own library makes of the products that `cargo bench --bench lab -- matmul` measures.

Prints a row per type and shape in the columns of that bench: TFLOP/s of torch.matmul in f32, tf32, f16 and bf16, and of
torch._int_mm. Needs PyTorch with CUDA:

    cargo bench --bench lab -- matmul && python3 benches/library_peak.py
"""

import torch

SHAPES = [(rows, 4096, tokens) for rows in (4096, 16384) for tokens in (16, 64, 512, 2048)]
MEASURED = 1e12  # operations in one measurement, about


def seconds(call, runs):
    """A call, the best of four measurements by the device's own clock."""
    best = float("inf")
    for _ in range(4):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for i in range(runs):
            call(i)
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3 / runs)
    return best


def operands(kind, rows, cols, tokens):
    """Activations, and as many weights as caches do not hold."""
    if kind == "int8":
        def make(*shape):
            return torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda")
    else:
        dtype = {"f16": torch.float16, "bf16": torch.bfloat16}.get(kind, torch.float32)

        def make(*shape):
            return torch.randn(*shape, dtype=dtype, device="cuda")
    x = make(tokens, cols)
    size = rows * cols * x.element_size()
    return x, [make(rows, cols).t() for _ in range(max(1, min(64, (256 << 20) // size)))]


def main():
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    print("| library | rows | cols | tokens | us | TFLOP/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for rows, cols, tokens in SHAPES:
        operations = 2 * rows * cols * tokens
        runs = int(max(2, min(400, MEASURED / operations)))
        for kind in ("f32", "tf32", "f16", "bf16", "int8"):
            # _int_mm wants more than 16 rows
            if kind == "int8" and tokens <= 16:
                continue
            torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
            x, weights = operands(kind, rows, cols, tokens)
            product = torch._int_mm if kind == "int8" else torch.matmul
            best = seconds(lambda i: product(x, weights[i % len(weights)]), runs)
            print(f"| {kind} | {rows} | {cols} | {tokens} | {best * 1e6:.1f} | {operations / best / 1e12:.1f} |")


if __name__ == "__main__":
    main()
