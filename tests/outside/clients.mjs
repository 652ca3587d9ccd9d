// The clients that the suites try, each as one shape: {subscribe, query, mutate, watch}. What a client can't do is
// left out. All of them send the token "good".
import { ApolloClient, ApolloLink, HttpLink, InMemoryCache, gql } from "@apollo/client/core";
import { GraphQLWsLink } from "@apollo/client/link/subscriptions";
import { Client, fetchExchange, subscriptionExchange } from "@urql/core";
import { EventSource } from "eventsource";
import { createClient as createEventsClient } from "graphql-sse";
import { createClient as createSocketClient } from "graphql-ws";
import WebSocket from "ws";

// Apollo's link asks for the browser's class, which Node 20 does not have.
globalThis.WebSocket ??= WebSocket;


const TOKEN = "Bearer good";
const RETRIES = { retryAttempts: 100, retryWait: () => new Promise((done) => setTimeout(done, 20)) };

const socketClient = (url) =>
  createSocketClient({
    url: url.replace("http", "ws"),
    webSocketImpl: WebSocket,
    connectionParams: { Authorization: TOKEN },
    shouldRetry: () => true,
    ...RETRIES,
  });

const eventsClient = (url) =>
  createEventsClient({ url, headers: { Authorization: TOKEN }, ...RETRIES });

// graphql-ws and graphql-sse have the same interface.
const plain = (client) => ({
  subscribe: (query, sink) => client.subscribe({ query }, sink),
  query: (query, variables) =>
    new Promise((next, error) =>
      client.subscribe({ query, variables }, { next, error, complete: () => {} }),
    ),
});

// The browser's own: it knows nothing of GraphQL, and resumes by Last-Event-ID.
const browser = (url) => ({
  subscribe: (query, sink) => {
    const address = `${url}?${new URLSearchParams({ query })}`;
    const source = new EventSource(address, {
      fetch: (input, init) =>
        fetch(input, { ...init, headers: { ...init.headers, Authorization: TOKEN } }),
    });
    source.addEventListener("next", ({ data }) => sink.next(JSON.parse(data)));
    source.addEventListener("complete", () => {
      source.close();
      sink.complete();
    });
  },
});

const apollo = (link) => {
  const client = new ApolloClient({ link, cache: new InMemoryCache() });
  return {
    subscribe: (query, sink) => client.subscribe({ query: gql(query) }).subscribe(sink),
    query: (query, variables) => client.query({ query: gql(query), variables }),
    mutate: (mutation, variables) => client.mutate({ mutation: gql(mutation), variables }),
    watch: (query, sink) => client.watchQuery({ query: gql(query) }).subscribe({ next: sink }),
  };
};

const apolloHttp = (url) => new HttpLink({ uri: url, headers: { Authorization: TOKEN } });

const urql = (url, exchanges, options = {}) => {
  const client = new Client({
    url,
    exchanges,
    preferGetMethod: false,
    fetchOptions: { headers: { Authorization: TOKEN } },
    ...options,
  });
  return {
    subscribe: (query, sink) => client.subscription(query, {}).subscribe((result) => sink.next(result)),
    query: (query, variables) => client.query(query, variables).toPromise(),
    mutate: (mutation, variables) => client.mutation(mutation, variables).toPromise(),
  };
};

const urqlSocket = (url) => {
  const sockets = socketClient(url);
  const forwardSubscription = ({ query, variables }) => ({
    subscribe: (sink) => ({ unsubscribe: sockets.subscribe({ query, variables }, sink) }),
  });
  return [subscriptionExchange({ forwardSubscription }), fetchExchange];
};

export const CLIENTS = {
  "graphql-ws": (url) => plain(socketClient(url)),
  "graphql-sse": (url) => plain(eventsClient(url)),
  eventsource: browser,
  "apollo-multipart": (url) => apollo(apolloHttp(url)),
  "apollo-ws": (url) =>
    apollo(
      ApolloLink.split(
        ({ operationType }) => operationType === "subscription",
        new GraphQLWsLink(socketClient(url)),
        apolloHttp(url),
      ),
    ),
  "urql-sse": (url) => urql(url, [fetchExchange], { fetchSubscriptions: true }),
  "urql-ws": (url) => urql(url, urqlSocket(url)),
};
