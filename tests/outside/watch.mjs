// Watches the news until they are complete: node watch.mjs CLIENT URL
// Prints each as a line of JSON as it comes, then "complete", or {error}.
import { CLIENTS } from "./clients.mjs";

const [name, url] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));
const end = (what) => {
  say(what);
  process.exit();
};
const codes = (errors) => errors.map(({ extensions }) => extensions.code);

CLIENTS[name](url).subscribe("subscription { news { cursor text } }", {
  next: ({ data, errors, error }) => {
    const problems = errors ?? error?.graphQLErrors ?? error?.errors;
    if (problems?.length) return end({ errors: codes(problems) });
    say(data.news.text);
    // urql tells no end of a subscription.
    if (data.news.text === "last") end("complete");
  },
  error: (error) => end({ errors: Array.isArray(error) ? codes(error) : String(error) }),
  complete: () => end("complete"),
});
// A client that waits to connect again may have nothing open meanwhile.
setInterval(() => {}, 1000);
