using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "disk", disk = (writable = true)),
  ],
  sockets = [(name = "http", http = (), service = "main")],
);

const main :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "durable_object.js")],
  compatibilityDate = "2026-01-01",
  durableObjectNamespaces = [(className = "Turn", uniqueKey = "turn", enableSql = true)],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [(name = "TURNS", durableObjectNamespace = "Turn")],
);
