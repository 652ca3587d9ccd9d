// One-time codes: `images up` and `images signin` print an address that ends in #code=…

import { SignInError } from "./session.js";

// The code in the address, which is removed from it; null when there is none.
export function takeCode() {
  const code = location.hash.startsWith("#code=") ? location.hash.slice("#code=".length) : null;
  if (code !== null) history.replaceState(null, "", location.pathname + location.search);
  return code;
}

// The token that a code stands for. Throws SignInError.
export async function tokenFor(code) {
  let answer;
  try {
    const response = await fetch("graphiql/signin", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ code }),
      credentials: "omit",
      cache: "no-store",
    });
    answer = await response.json();
  } catch {
    throw new SignInError("The gateway does not answer. Load the page again, or paste a token.");
  }
  if (typeof answer.token === "string") return answer.token;
  throw new SignInError([answer.error?.message, answer.error?.hint].filter(Boolean).join(" "), true);
}
