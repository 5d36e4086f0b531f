"""What all parts of the PyTorch side share: where it computes, layouts, the table of ops."""

import torch
import torch.nn.functional as F


class Refused(Exception):
    """This side cannot do what is asked; the text says why."""


# gpu: whether everything runs on a GPU, in one element type and with pictures channels-last; else on the CPU in
# f32 with contiguous NCHW pictures. flush: memory to sweep the caches with.
settings = {"official": None, "flush": None, "gpu": False, "dtype": torch.float32}

OPS = {}


def op(function):
    OPS[function.__name__] = function
    return function


def same(y):
    return y


def nchw(x):
    """Our NHWC as PyTorch's shape; on a GPU the same memory, which PyTorch calls channels-last."""
    x = x.permute(0, 3, 1, 2)
    return x if settings["gpu"] else x.contiguous()


def nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous()


def channels_second(x):
    """Channels where PyTorch looks for them, and the way back."""
    return x.movedim(-1, 1).contiguous(), lambda y: y.movedim(1, -1)


ACTIVATIONS = {
    "Relu": F.relu,
    "LeakyRelu": F.leaky_relu,
    "Gelu": F.gelu,
    "GeluTanh": lambda x: F.gelu(x, approximate="tanh"),
    "Silu": F.silu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Exp": torch.exp,
    "Ln": torch.log,
    "Sqrt": torch.sqrt,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Abs": torch.abs,
    "Clamp": torch.clamp,
}


def activation_function(kind):
    function, args = ACTIVATIONS[kind["type"]], kind.get("args", [])
    return (lambda x: function(x, *args)) if args else function


def with_epilogue(compute, epilogue, gate, residual):
    """compute() followed by gate*alpha*act(.) + residual, each a call of its own as in eager code."""
    act = activation_function(epilogue["act"]) if epilogue["act"] else None
    alpha = epilogue["alpha"]

    def call():
        y = compute()
        if act:
            y = act(y)
        if alpha != 1.0:
            y = y * alpha
        if gate is not None:
            y = gate * y
        return y + residual if epilogue["residual"] else y

    return call


def backward(function, operands, wanted, dy):
    """A call of the backward pass alone, for the gradients of the operands `wanted`."""
    with torch.inference_mode(False), torch.enable_grad():
        operands, dy = [t.clone() for t in operands], dy.clone()
        for k in wanted:
            operands[k].requires_grad_(True)
        y = function(*operands)

    def call():
        with torch.inference_mode(False):
            return torch.autograd.grad(y, [operands[k] for k in wanted], dy, retain_graph=True)[0]

    return call
