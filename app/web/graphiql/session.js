// The token of this tab. The browser forgets it with the tab, and shows it to no other tab.

const KEY = "image-gateway:token";

// Why somebody is not signed in. `final` says that the same token or code won't work later either.
export class SignInError extends Error {
  constructor(message, final = false) {
    super(message);
    this.final = final;
  }
}

export const keptToken = () => sessionStorage.getItem(KEY);

// Keeps a token; null forgets it.
export function keepToken(token) {
  if (token === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, token);
}

// The id of a project that the token may use, undefined when there is none. Throws SignInError for a bad token.
export async function projectOf(token) {
  let answer;
  try {
    const response = await fetch(location.pathname, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", Authorization: `Bearer ${token}` },
      body: JSON.stringify({ query: "{ viewer { projects(first: 1) { nodes { id } } } }" }),
      credentials: "omit",
    });
    answer = await response.json();
  } catch {
    throw new SignInError("The gateway does not answer. Try again in a moment.");
  }
  const error = answer.errors?.[0];
  if (error === undefined) return answer.data.viewer?.projects.nodes[0]?.id;
  const refused = error.extensions?.code === "UNAUTHENTICATED";
  throw new SignInError(refused ? sentence(error.message) : error.message, refused);
}

function sentence(text) {
  const start = text[0].toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}
