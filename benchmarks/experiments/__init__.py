# SPDX-License-Identifier: Apache-2.0
"""Experiments that the survey reports or names, made small: one file each, run by ``python -m benchmarks.experiments``.

A function runs its experiment and gives what is kept of a claim (:func:`benchmarks.claims.outcome`). Its arguments are
seeds and sizes, so that the tests run it on toys.
"""
