# SPDX-License-Identifier: Apache-2.0
"""Ground floor: units, scenes, seeds, checks, precision, files and hashes; it knows nothing of the floors above."""
