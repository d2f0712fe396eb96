"""A description as text."""

from fedjax_rec.data.describe.measure import Description


def to_text(description: Description) -> str:
    """A table to print."""
    d = description
    rows = [
        ("data", d.data),
        ("partition", d.partition),
        ("users", f"{d.users:,}"),
        ("items", f"{d.items:,}"),
        ("interactions", f"{d.interactions:,}"),
        ("density", f"{d.density:.4%}"),
        ("clients", f"{d.clients:,}"),
        ("  empty", f"{d.empty_clients:,}"),
        ("  users a client", f"{d.users_per_client:,.2f}"),
        ("  clients a user", f"{d.clients_per_user:,.2f}"),
        ("interactions a client", f"{d.size_mean:,.1f} on average"),
        *((f"  {name}", f"{value:,.0f}") for name, value in d.size_quantiles.items()),
        ("  Gini", f"{d.size_gini:.3f}"),
        ("label divergence", f"{d.divergence_mean:.3f} bits over {d.labels} labels"),
        ("  by chance alone", f"{d.divergence_by_chance:.3f} bits"),
        ("popularity", "share of interactions"),
        *((f"  top {p} % items", f"{share:.1%}") for p, share in d.top_share.items()),
        *((f"note: {reason}", f"{count:,}") for reason, count in d.notes.items()),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if d.limits:
        lines += ["", "Synthetic. Real data have what these lack:"]
        lines += [f"  - {limit}" for limit in d.limits]
    return "\n".join(lines)
