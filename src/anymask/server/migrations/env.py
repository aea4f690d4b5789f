"""Alembic's entry: run the migrations on the connection that the store hands over."""

from alembic import context

from anymask.server.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
