"""Bearer tokens: JSON Web Tokens (RFC 7519), signed with the gateway's secret or by an OIDC issuer.

The algorithm comes from the configuration, never from the token (RFC 8725, section 3.1).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from app.errors import NotAuthenticated
from app.settings import Settings
from app.viewer import Viewer

# The audience of the gateway's own tokens, so that a URL signed with the same secret is not accepted as a token.
_AUDIENCE = "image-gateway"
# The claim that makes the holder of one of the gateway's own tokens an operator.
_OPERATOR = "operator"
# The claim with the newest revocation before the gateway issued the token, in microseconds since the epoch.
_ISSUED_AFTER = "rev"
_CLOCK_SKEW_SECONDS = 10
_KNOWN_TOKENS = 1_000
_KEYS_LIFETIME_SECONDS = 300
_ISSUER_SILENT = "the token can't be verified now: its issuer does not answer"


@dataclass(slots=True)
class SecretTokens:
    """Tokens of the embedded mode: HS256 with the gateway's own secret."""

    secret: bytes = field(repr=False)
    # Verified tokens, until they expire: clients send the same token with every request.
    _known: OrderedDict[str, Viewer] = field(default_factory=OrderedDict, repr=False)

    def issue(
        self,
        subject: str,
        *,
        name: str | None = None,
        valid: timedelta = timedelta(days=30),
        operator: bool = False,
        issued_after: int | None = None,
    ) -> str:
        """A token for `subject`, valid for `valid` from now; `operator` makes the subject one.

        `issued_after` is the newest revocation of the subject's tokens, in microseconds since the epoch, or 0. It
        decides whether a later revocation covers the token, even if clocks differ. Without it, the time of issue does.
        """
        now = datetime.now(UTC)
        # RFC 7519, section 2: a NumericDate may have a fraction. With whole seconds, a new token would equal one that
        # was revoked in the same second.
        claims: dict[str, Any] = {"sub": subject, "aud": _AUDIENCE, "iat": now.timestamp(), "exp": now + valid}
        if issued_after is not None:
            claims[_ISSUED_AFTER] = issued_after
        if name is not None:
            claims["name"] = name
        if operator:
            claims[_OPERATOR] = True
        return jwt.encode(claims, self.secret, algorithm="HS256")

    async def viewer(self, token: str) -> Viewer:
        """The holder of the token. Raises NotAuthenticated."""
        known = self._known.get(token)
        if known is not None and known.expires_at is not None and datetime.now(UTC) < known.expires_at:
            return known
        viewer = _viewer(
            token,
            lambda: self.secret,
            algorithm="HS256",
            audience=_AUDIENCE,
            issuer=None,
            operator=OperatorClaim(_OPERATOR),
            revocable=True,
        )
        self._known[token] = viewer
        if len(self._known) > _KNOWN_TOKENS:
            self._known.popitem(last=False)
        return viewer


@dataclass(slots=True)
class IssuerTokens:
    """Tokens of an OIDC issuer, verified with the keys that it publishes (OpenID Connect Discovery 1.0)."""

    issuer: str
    audience: str | None
    algorithm: str
    jwks_url: str | None = None
    operator: "OperatorClaim | None" = None
    _keys: jwt.PyJWKClient | None = None

    async def viewer(self, token: str) -> Viewer:
        """The holder of the token. Raises NotAuthenticated, also when the issuer can't be reached."""
        # PyJWKClient fetches with a blocking client, and caches the keys.
        return await asyncio.to_thread(self._viewer, token)

    def _viewer(self, token: str) -> Viewer:
        return _viewer(
            token,
            lambda: self._key_of(token),
            self.algorithm,
            audience=self.audience,
            issuer=self.issuer,
            operator=self.operator,
        )

    def _key_of(self, token: str) -> jwt.PyJWK:
        if self._keys is None:
            url = self.jwks_url or self._discovered()
            self._keys = jwt.PyJWKClient(url, lifespan=_KEYS_LIFETIME_SECONDS, timeout=5)
        return self._keys.get_signing_key_from_jwt(token)

    def _discovered(self) -> str:
        # Loaded only here: a gateway that issues its own tokens does without.
        import httpx

        address = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            answer = httpx.get(address, timeout=5)
            return str(answer.raise_for_status().json()["jwks_uri"])
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise NotAuthenticated(_ISSUER_SILENT) from error


Tokens = SecretTokens | IssuerTokens


def tokens_of(settings: Settings) -> Tokens:
    """What verifies tokens in this configuration."""
    if settings.jwt_issuer is None:
        return SecretTokens(settings.secret_bytes)
    claim = None if settings.operator_claim is None else OperatorClaim.parse(settings.operator_claim)
    return IssuerTokens(
        settings.jwt_issuer, settings.jwt_audience, settings.jwt_algorithm, settings.jwks_url, operator=claim
    )


def _viewer(
    token: str,
    key: Callable[[], Any],
    algorithm: str,
    *,
    audience: str | None,
    issuer: str | None,
    operator: "OperatorClaim | None",
    revocable: bool = False,
) -> Viewer:
    try:
        claims = jwt.decode(
            token,
            key(),
            algorithms=[algorithm],
            audience=audience,
            issuer=issuer,
            leeway=_CLOCK_SKEW_SECONDS,
            options={"require": ["exp", "sub"], "verify_aud": audience is not None},
        )
        return _holder(claims, operator, _issued_after(claims) if revocable else None)
    except jwt.ExpiredSignatureError as error:
        raise NotAuthenticated("the token has expired; get a new one") from error
    except jwt.PyJWKClientConnectionError as error:
        raise NotAuthenticated(_ISSUER_SILENT) from error
    except (jwt.PyJWTError, ValueError, OverflowError) as error:
        raise NotAuthenticated("the token is not valid: it is malformed, or another issuer signed it") from error


@dataclass(frozen=True, slots=True)
class OperatorClaim:
    """The claim that makes the holder of a token an operator, by its name or by its path, separated by dots.

    Without a `value`, the claim must be true; with one, it must be that text or a list that contains it.
    """

    name: str
    value: str | None = None

    @classmethod
    def parse(cls, text: str) -> "OperatorClaim":
        """Parses `operator` or `realm_access.roles=image-operator`."""
        name, _, value = text.partition("=")
        return cls(name, value or None)

    def holds(self, claims: dict[str, Any]) -> bool:
        """Whether a token with these claims belongs to an operator."""
        found = claims[self.name] if self.name in claims else self._at_path(claims)
        if self.value is None:
            return found is True
        return found == self.value or (isinstance(found, list) and self.value in found)

    def _at_path(self, claims: object) -> object:
        for name in self.name.split("."):
            claims = claims.get(name) if isinstance(claims, dict) else None
        return claims


def _issued_after(claims: dict[str, Any]) -> int:
    """The stamp to compare with revocations, in microseconds; 0 when the token has no time of issue."""
    stamp, issued_at = claims.get(_ISSUED_AFTER), claims.get("iat", 0)
    return stamp if isinstance(stamp, int) else int(float(issued_at) * 1_000_000)


def _holder(claims: dict[str, Any], operator: OperatorClaim | None, issued_after: int | None) -> Viewer:
    """The holder. Raises ValueError when the claims have no usable subject, or an end that is not a valid date."""
    subject, name = claims["sub"], claims.get("name")
    if not subject or not subject.isprintable():
        raise ValueError("the subject is empty, or contains unprintable characters")
    return Viewer(
        subject=subject,
        name=name if isinstance(name, str) else None,
        expires_at=datetime.fromtimestamp(int(claims["exp"]), UTC),
        operator=operator is not None and operator.holds(claims),
        issued_after=issued_after,
    )
