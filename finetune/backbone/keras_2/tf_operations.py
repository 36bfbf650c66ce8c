"""TensorFlow's functions between the layers of a Keras 2 model, such as `preprocess_input`, as layers and operations of
Keras 3."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Made = Callable[..., Any]
_MIDDLE = {"REFLECT": "reflect", "SYMMETRIC": "symmetric", "CONSTANT": "constant"}


def scaled(x: Any, scale: Any, offset: Any, *, name: str | None) -> Any:
    """`x * scale + offset`, by a layer; scale, offset: numbers, or one for each channel."""
    plain = [np.asarray(one, np.float64).reshape(-1).tolist() for one in (scale, offset)]
    scale, offset = (one[0] if len(one) == 1 else one for one in plain)
    return keras.layers.Rescaling(scale, offset, name=name)(x)


def _per_channel(value: Any) -> bool:
    """Whether a value is a constant, one number or one for each channel."""
    if keras.backend.is_keras_tensor(value):
        return False
    shape = np.shape(value)
    return all(side == 1 for side in shape[:-1])


def _arithmetic(
    operation: Callable[[Any, Any], Any], affine: Callable[[Any], tuple[Any, Any]], *, either: bool
) -> Made:
    """A function of two operands. affine: (scale, offset) that a constant second one stands for; `either`: or first."""

    def made(x: Any, y: Any, name: str | None = None) -> Any:
        if either and not keras.backend.is_keras_tensor(x):
            x, y = y, x
        if keras.backend.is_keras_tensor(x) and _per_channel(y):
            return scaled(x, *affine(np.asarray(y, np.float64)), name=name)
        return operation(x, y)

    return made


_ADD = _arithmetic(ops.add, lambda y: (1.0, y), either=True)
_MULTIPLY = _arithmetic(ops.multiply, lambda y: (y, 0.0), either=True)
_SUBTRACT = _arithmetic(ops.subtract, lambda y: (1.0, -y), either=False)
_DIVIDE = _arithmetic(ops.divide, lambda y: (1.0 / y, 0.0), either=False)


def _bias_add(value: Any, bias: Any, data_format: str | None = None, name: str | None = None) -> Any:
    if data_format in ("NCHW", "channels_first"):
        raise ValueError("bias_add with channels first")
    return _ADD(value, bias, name=name)


def _cast(x: Any, dtype: Any = None, name: str | None = None) -> Any:
    """Types are float32 throughout: a cast between float types is none."""
    wanted = str(getattr(dtype, "name", dtype))
    return x if wanted.startswith(("float", "bfloat")) else ops.cast(x, wanted)


def _item(tensor: Any, slice_spec: Any) -> Any:
    parts = [_slice(part) for part in (slice_spec if isinstance(slice_spec, list | tuple) else [slice_spec])]
    return tensor[tuple(parts)]


def _slice(part: Any) -> Any:
    return slice(part["start"], part["stop"], part["step"]) if isinstance(part, Mapping) else part


def _reduced(operation: Callable[..., Any]) -> Made:
    def made(input_tensor: Any, axis: Any = None, keepdims: bool = False, name: str | None = None) -> Any:
        return operation(input_tensor, axis=tuple(axis) if isinstance(axis, list) else axis, keepdims=bool(keepdims))

    return made


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0, name: str | None = None) -> Any:
    widths = np.asarray(paddings).tolist()
    if mode.upper() == "CONSTANT":
        return ops.pad(tensor, widths, constant_values=constant_values)
    return ops.pad(tensor, widths, mode=_MIDDLE[mode.upper()])


def _resize(images: Any, size: Any, method: str = "bilinear", antialias: bool = False, name: str | None = None) -> Any:
    return ops.image.resize(images, tuple(int(side) for side in np.asarray(size)), str(method), antialias=antialias)


def _standardised(image: Any, name: str | None = None) -> Any:
    """tf.image.per_image_standardization: the deviation is at least that of one grey level, 1/sqrt(N)."""
    least = float(np.prod(image.shape[1:])) ** -0.5
    mean, deviation = ops.mean(image, [1, 2, 3], keepdims=True), ops.std(image, [1, 2, 3], keepdims=True)
    return ops.divide(ops.subtract(image, mean), ops.maximum(deviation, least))


def _grey(images: Any, name: str | None = None) -> Any:
    return ops.sum(ops.multiply(images, np.array([0.2989, 0.587, 0.114], np.float32)), axis=-1, keepdims=True)


def _unit_length(x: Any, axis: Any = None, epsilon: float = 1e-12, name: str | None = None) -> Any:
    length = ops.sum(ops.square(x), axis=axis, keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(length, epsilon)))


def _unary(operation: Callable[..., Any]) -> Made:
    def made(x: Any = None, *, name: str | None = None, **named: Any) -> Any:
        given = [one for key in ("features", "input", "image") if (one := named.get(key)) is not None]
        return operation(x if x is not None else given[0])

    return made


def _split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None, name: str | None = None) -> Any:
    parts = num_or_size_splits
    return ops.split(value, parts if isinstance(parts, int) else np.cumsum(parts)[:-1].tolist(), axis=axis)


def _pooled(operation: Callable[..., Any]) -> Made:
    def made(input: Any, ksize: Any, strides: Any, padding: str, data_format: str = "NHWC", name: Any = None) -> Any:
        if data_format != "NHWC":
            raise ValueError(f"pooling with the layout {data_format}")
        sides = [one if isinstance(one, int) else tuple(one)[-3:-1] or tuple(one) for one in (ksize, strides)]
        return operation(input, sides[0], strides=sides[1], padding=padding.lower())

    return made


def _space_to_depth(input: Any, block_size: int, data_format: str = "NHWC", name: str | None = None) -> Any:
    _, height, width, channels = input.shape
    x = ops.reshape(input, (-1, height // block_size, block_size, width // block_size, block_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height // block_size, width // block_size, block_size * block_size * channels))


def _shape(input: Any, out_type: Any = None, name: str | None = None) -> Any:
    """Sides that are known; -1 for others, as `reshape` wants them."""
    return np.array([-1 if side is None else side for side in input.shape])


def _summed(inputs: Sequence[Any], name: str | None = None) -> Any:
    return keras.layers.Add()(list(inputs)) if len(inputs) > 1 else inputs[0]


def _where(condition: Any, x: Any = None, y: Any = None, name: str | None = None) -> Any:
    return ops.where(condition, x, y)


def _moments(x: Any, axes: Any, shift: Any = None, keepdims: bool = False, name: str | None = None) -> Any:
    return ops.moments(x, tuple(axes), keepdims=keepdims)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, name: Any = None, **_: Any) -> Any:
    a, b = (ops.swapaxes(one, -1, -2) if turned else one for one, turned in ((a, transpose_a), (b, transpose_b)))
    return ops.matmul(a, b)


_ROUNDING = ("floor", "ceil", "round", "sign", "sin", "cos", "erf", "reciprocal", "log1p", "expm1")
_COMPARED = {
    "greater": ("gt", ops.greater),
    "greater_equal": ("ge", ops.greater_equal),
    "less": ("lt", ops.less),
    "less_equal": ("le", ops.less_equal),
    "equal": ("eq", ops.equal),
    "not_equal": ("ne", ops.not_equal),
}
_UNARY: dict[str, Callable[..., Any]] = {
    **{f"math.{name}": getattr(ops, name) for name in ("abs", "exp", "log", "sqrt", "rsqrt", "square", "tanh")},
    **{name: getattr(ops, one) for one in _ROUNDING for name in (one, f"math.{one}")},
    "image.flip_left_right": lambda x: ops.flip(x, axis=2),
    "image.flip_up_down": lambda x: ops.flip(x, axis=1),
    "math.sigmoid": ops.sigmoid,
    "math.negative": ops.negative,
    "math.softplus": ops.softplus,
    **{f"nn.{name}": getattr(ops, name) for name in ("relu", "relu6", "sigmoid", "tanh", "elu", "selu", "silu")},
    "nn.swish": ops.silu,
    "nn.softplus": ops.softplus,
    "identity": lambda x: x,
    "stop_gradient": lambda x: x,
    "tanh": ops.tanh,
    "sqrt": ops.sqrt,
    "exp": ops.exp,
    "abs": ops.abs,
    "convert_to_tensor": lambda x: x,
}
FUNCTIONS: Mapping[str, Made] = {
    **{name: _unary(operation) for name, operation in _UNARY.items()},
    **dict.fromkeys(("math.add", "__operators__.add", "add"), _ADD),
    **dict.fromkeys(("math.multiply", "__operators__.multiply", "multiply", "math.scalar_mul"), _MULTIPLY),
    **dict.fromkeys(("math.subtract", "__operators__.subtract", "subtract"), _SUBTRACT),
    **dict.fromkeys(("math.truediv", "math.divide", "realdiv", "__operators__.truediv", "divide"), _DIVIDE),
    **dict.fromkeys(("cast", "dtypes.cast"), _cast),
    **dict.fromkeys(("__operators__.getitem", "slice_item"), _item),
    "nn.bias_add": _bias_add,
    "math.maximum": lambda x, y, name=None: ops.maximum(x, y),
    "math.minimum": lambda x, y, name=None: ops.minimum(x, y),
    "math.pow": lambda x, y, name=None: ops.power(x, y),
    "nn.softmax": lambda logits, axis=-1, name=None: ops.softmax(logits, axis=-1 if axis is None else axis),
    "nn.log_softmax": lambda logits, axis=-1, name=None: ops.log_softmax(logits, axis=-1 if axis is None else axis),
    "nn.gelu": lambda features, approximate=False, name=None: ops.gelu(features, approximate=approximate),
    "nn.leaky_relu": lambda features, alpha=0.2, name=None: ops.leaky_relu(features, negative_slope=alpha),
    "clip_by_value": lambda t, clip_value_min, clip_value_max, name=None: ops.clip(t, clip_value_min, clip_value_max),
    "reshape": lambda tensor, shape, name=None: ops.reshape(tensor, tuple(int(side) for side in shape)),
    "concat": lambda values, axis, name=None: ops.concatenate(values, axis=axis),
    "stack": lambda values, axis=0, name=None: ops.stack(values, axis=axis),
    "expand_dims": lambda input, axis, name=None: ops.expand_dims(input, axis),
    "squeeze": lambda input, axis=None, name=None: ops.squeeze(input, axis),
    "transpose": lambda a, perm=None, conjugate=False, name=None: ops.transpose(a, perm),
    "reverse": lambda tensor, axis, name=None: ops.flip(tensor, axis=next(iter(axis))),
    "pad": _pad,
    "image.resize": _resize,
    "image.per_image_standardization": _standardised,
    "image.rgb_to_grayscale": _grey,
    "image.grayscale_to_rgb": lambda images, name=None: ops.concatenate([images, images, images], axis=-1),
    **dict.fromkeys(("math.l2_normalize", "nn.l2_normalize", "linalg.l2_normalize"), _unit_length),
    **{
        name: lambda x, y, name=None, made=made: made(x, y)
        for one, (operator, made) in _COMPARED.items()
        for name in (f"math.{one}", f"__operators__.{operator}")
    },
    **dict.fromkeys(("where", "where_v2"), _where),
    **dict.fromkeys(("math.add_n", "add_n"), _summed),
    **dict.fromkeys(
        ("floor_div", "math.floordiv", "__operators__.floordiv"), lambda x, y, name=None: ops.floor_divide(x, y)
    ),
    **dict.fromkeys(
        ("floormod", "math.floormod", "math.mod", "__operators__.mod"), lambda x, y, name=None: ops.mod(x, y)
    ),
    "math.squared_difference": lambda x, y, name=None: ops.square(ops.subtract(x, y)),
    "linalg.matmul": _matmul,
    "nn.moments": _moments,
    "shape": _shape,
    "split": _split,
    "unstack": lambda value, num=None, axis=0, name=None: ops.unstack(value, num, axis),
    **dict.fromkeys(("nn.avg_pool2d", "nn.avg_pool"), _pooled(ops.average_pool)),
    **dict.fromkeys(("nn.max_pool2d", "nn.max_pool"), _pooled(ops.max_pool)),
    "nn.space_to_depth": _space_to_depth,
    "tile": lambda input, multiples, name=None: ops.tile(input, tuple(multiples)),
    "math.reduce_std": _reduced(ops.std),
    "math.reduce_variance": _reduced(ops.var),
    "math.reduce_prod": _reduced(ops.prod),
    "math.reduce_min": _reduced(ops.min),
    "math.reduce_mean": _reduced(ops.mean),
    "math.reduce_max": _reduced(ops.max),
    "math.reduce_sum": _reduced(ops.sum),
}
"""By the name of TensorFlow's function: the same of Keras's tensors, with the names of its arguments."""

_STRIDED = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")


def _strided_slice(node: Any, x: Any, begin: Any, end: Any, strides: Any) -> Any:
    """`x[...]` as TensorFlow writes it: bits of five masks say what each position is (tf.raw_ops.StridedSlice)."""
    masks = {name: int(node.attr[name].i) for name in _STRIDED}
    key: list[Any] = []
    for at, (first, last, step) in enumerate(
        zip(*(np.asarray(one).tolist() for one in (begin, end, strides)), strict=True)
    ):
        open_begin, open_end, rest, new, single = (masks[name] >> at & 1 for name in _STRIDED)
        part = slice(None if open_begin else first, None if open_end else last, step)
        key.append(Ellipsis if rest else None if new else first if single else part)
    return x[tuple(key)]


NODES: Mapping[str, Callable[..., Any]] = {
    **{op: lambda node, x, y: _ADD(x, y) for op in ("Add", "AddV2")},
    "BiasAdd": lambda node, x, y: _bias_add(x, y, node.attr["data_format"].s.decode()),
    "Sub": lambda node, x, y: _SUBTRACT(x, y),
    "Mul": lambda node, x, y: _MULTIPLY(x, y),
    "RealDiv": lambda node, x, y: _DIVIDE(x, y),
    "Maximum": lambda node, x, y: ops.maximum(x, y),
    "Minimum": lambda node, x, y: ops.minimum(x, y),
    "Relu": lambda node, x: ops.relu(x),
    "Relu6": lambda node, x: ops.relu6(x),
    "Sigmoid": lambda node, x: ops.sigmoid(x),
    "Tanh": lambda node, x: ops.tanh(x),
    "Softmax": lambda node, x: ops.softmax(x),
    "Identity": lambda node, x: x,
    "Neg": lambda node, x: ops.negative(x),
    "Square": lambda node, x: ops.square(x),
    "Sqrt": lambda node, x: ops.sqrt(x),
    "Cast": lambda node, x: x,
    "Reshape": lambda node, x, shape: ops.reshape(x, tuple(np.asarray(shape).tolist())),
    "Transpose": lambda node, x, perm: ops.transpose(x, np.asarray(perm).tolist()),
    "ReverseV2": lambda node, x, axis: ops.flip(x, axis=int(np.asarray(axis).reshape(-1)[0])),
    "Pad": lambda node, x, widths: ops.pad(x, np.asarray(widths).tolist()),
    "ConcatV2": lambda node, *values: ops.concatenate(list(values[:-1]), axis=int(values[-1])),
    "Mean": lambda node, x, axis: ops.mean(x, np.asarray(axis).tolist(), keepdims=node.attr["keep_dims"].b),
    "StridedSlice": _strided_slice,
}
"""By the operation of a node, as TensorFlow 2.0 to 2.3 saved them: the same of Keras's tensors."""


def node_of(node_def: Any) -> str:
    """The operation of a node as a config holds it: a mapping, or a protocol buffer as text of its bytes."""
    if isinstance(node_def, Mapping):
        return str(node_def.get("op"))
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import node_def_pb2

    try:
        return str(node_def_pb2.NodeDef.FromString(str(node_def).encode()).op)
    except DecodeError:
        return "?"


def call_function(symbol: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of TensorFlow's function `symbol` on Keras's tensors, by a layer `name` where it is a layer.

    Raises what Keras raises where the arguments are none that are known here.
    """
    function = FUNCTIONS[plain(symbol)]
    settings = {key: value for key, value in kwargs.items() if key != "name" and value is not None}
    return function(*args, **settings, name=name) if function in _NAMED else function(*args, **settings)


def plain(symbol: str) -> str:
    """The name of a function without the place where TensorFlow 2 keeps that of TensorFlow 1."""
    return symbol.removeprefix("compat.v1.")


_NAMED = (_ADD, _MULTIPLY, _SUBTRACT, _DIVIDE, _bias_add)


def call_node(node: Any, constants: Mapping[int, Any], inputs: Sequence[Any]) -> Any:
    """The result of a node of TensorFlow's graph: `constants` by their position among its `inputs`."""
    values = list(inputs)
    for at in sorted(constants):
        values.insert(at, np.asarray(constants[at]))
    return NODES[node.op](node, *values)
