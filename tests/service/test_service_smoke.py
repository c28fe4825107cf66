def test_x(client):
    print(client.get("/health/ready").json())
    r = client.post("/items/embed", json={"items":[{"id":"a","attributes":{"title":"Heat"}}]})
    print(r.status_code, r.json())
    r = client.post("/recommend", json={"sequence":["film-4", {"attributes":{"title":"x"}}, "nope"], "k": 3})
    print(r.status_code, r.json())
    print(client.get("/items/a/b c/similar?k=1").json(), client.get("/items/x/y/z").json())
    print(client.get("/bundle").json()["serving"])
    print(list(client.get("/openapi.json").json()["paths"]["/recommend"]["post"]["responses"].items())[1])
