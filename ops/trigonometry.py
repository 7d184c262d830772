"""Angles: trigonometric and hyperbolic functions, and their inverses."""

from __future__ import annotations

import math

import torch

from fusedsl.ir import declare

from .compare import eq, isnan, where
from .convert import rounded_once
from .helpers import on_tensors
from .rules import floating


@declare(type=floating, triton="tl.sin({0})")
def sin(x: torch.Tensor):
    """sin x"""
    return torch.sin(x)


@declare(type=floating, triton="tl.cos({0})")
def cos(x: torch.Tensor):
    """cos x"""
    return torch.cos(x)


@declare(type=floating, triton="libdevice.tan({0})", domain=(-1.5, 1.5))
def tan(x: torch.Tensor):
    """tan x"""
    return torch.tan(x)


@declare(type=floating, triton="libdevice.asin({0})", torch=("torch.arcsin", "Tensor.arcsin"), domain=(-1, 1))
def asin(x: torch.Tensor):
    """arcsin x"""
    return torch.asin(x)


@declare(type=floating, triton="libdevice.acos({0})", torch=("torch.arccos", "Tensor.arccos"), domain=(-1, 1))
def acos(x: torch.Tensor):
    """arccos x"""
    return torch.acos(x)


@declare(type=floating, triton="libdevice.atan({0})", torch=("torch.arctan", "Tensor.arctan"))
def atan(x: torch.Tensor):
    """arctan x"""
    return torch.atan(x)


@declare(type=floating, triton=on_tensors("libdevice.atan2({0}, {1})"), torch=("torch.arctan2", "Tensor.arctan2"))
def atan2(x: torch.Tensor, other: torch.Tensor):
    """The angle of the point (other, x)."""
    return torch.atan2(x, other)


@declare(type=floating, triton="libdevice.sinh({0})")
def sinh(x: torch.Tensor):
    """sinh x"""
    return torch.sinh(x)


@declare(type=floating, triton="libdevice.cosh({0})")
def cosh(x: torch.Tensor):
    """cosh x"""
    return torch.cosh(x)


@declare(type=floating, triton="libdevice.tanh({0})")
def tanh(x: torch.Tensor):
    """tanh x"""
    return torch.tanh(x)


@declare(type=floating, triton="libdevice.asinh({0})", torch=("torch.arcsinh", "Tensor.arcsinh"))
def asinh(x: torch.Tensor):
    """arsinh x"""
    return torch.asinh(x)


@declare(type=floating, triton="libdevice.acosh({0})", torch=("torch.arccosh", "Tensor.arccosh"), domain=(1, 4))
def acosh(x: torch.Tensor):
    """arcosh x"""
    return torch.acosh(x)


@declare(type=floating, triton="libdevice.atanh({0})", torch=("torch.arctanh", "Tensor.arctanh"), domain=(-0.9, 0.9))
def atanh(x: torch.Tensor):
    """artanh x"""
    return torch.atanh(x)


@declare(expand=rounded_once(lambda x: where(eq(x, 0), 1.0, sin(x * math.pi) / (x * math.pi))))
def sinc(x: torch.Tensor):
    """sin(pi x) / (pi x), 1 at 0"""
    return torch.sinc(x)


@declare(expand=rounded_once(lambda x: x * (math.pi / 180)))
def deg2rad(x: torch.Tensor):
    """x pi / 180"""
    return torch.deg2rad(x)


@declare(expand=rounded_once(lambda x: x * (180 / math.pi)))
def rad2deg(x: torch.Tensor):
    """x 180 / pi"""
    return torch.rad2deg(x)


@declare(expand=rounded_once(lambda x: where(x < 0, math.pi, where(isnan(x), x, 0.0))))
def angle(x: torch.Tensor):
    """pi where x < 0, else 0"""
    return torch.angle(x)
