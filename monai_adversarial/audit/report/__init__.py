# SPDX-License-Identifier: Apache-2.0
"""The report of an audit: HTML, JSON, CSV."""
